//! The settings of the user service, and values derived from them.

use std::time::Duration;

use openorch_chassis::{setting_choice, settings, settings::ByteSize};

/// Who may register an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    Open,
    /// Programs on this machine, but not web pages. The default while only loopback is served, which pages in a browser
    /// can reach as well.
    OnThisMachine,
    /// With an invitation code.
    Invite,
    Closed,
}

setting_choice!(Registration { Open = "open", Invite = "invite", Closed = "closed" });

settings! {
    /// Accounts, sessions and access rules: `[user]`.
    pub struct UserSettings in "user" {
        /// Who may register an account: open, invite or closed.
        registration: Option<Registration> = "open on loopback, else closed", as "OPENORCH_REGISTRATION";
        /// Maximum number of accounts registered from one network within an hour while registration is open; programs on
        /// this machine are exempt.
        max_registrations_per_network: u32 = "100";
        /// Minimum password length, in characters.
        password_min: Option<usize> = "1 on loopback, else 8", as "OPENORCH_PASSWORD_MIN";
        /// Maximum password length, in bytes.
        password_max_bytes: ByteSize = "1KiB";
        /// Maximum number of password hashes computed concurrently.
        password_hash_concurrency: Option<usize> = "half of the cores";
        /// Maximum time that a sign-in or registration waits for its password to be hashed.
        password_hash_max_wait: Duration = "10s";
        /// Token lifetime (`exp`).
        token_lifetime: Duration = "24h";
        /// Maximum number of tokens signed concurrently.
        token_signing_concurrency: Option<usize> = "half of the cores";
        /// Lifetime of a delegated token.
        delegated_token_lifetime: Duration = "5m";
        /// Time without use after which a session ends.
        session_idle_timeout: Duration = "2160h";
        /// Maximum lifetime of a session, even if it is used.
        session_max_lifetime: Option<Duration> = "none";
        /// Maximum number of sessions per account; beyond it, the least recently used one ends.
        max_sessions_per_account: u64 = "1000";
        /// Time that a service may cache the result of a permission check.
        permission_cache_ttl: Duration = "10s";
        /// Maximum number of entries in each of the caches of accounts, sessions, tokens and delegated tokens.
        max_cache_entries: u64 = "50000";
        /// Memory limit for the roles, permissions, links and grants of all accounts (estimated).
        max_access_rule_memory: ByteSize = "128MiB";
        /// The same limit per account; admins are exempt.
        max_access_rule_memory_per_account: ByteSize = "4MiB";
        /// Maximum number of slugs and roles in all grants and permits of one account; admins are exempt.
        max_grant_names_per_account: usize = "10000";
        /// Maximum number of roles that an account may have assigned to others, including pending ones; admins are
        /// exempt.
        max_role_assignments_per_account: u64 = "10000";
    }
}

settings! {
    /// The audit log: `[audit]`.
    pub struct AuditSettings in "audit" {
        /// Time that entries of the audit log are kept.
        retention: Duration = "8760h";
        /// Maximum number of entries of the audit log; the oldest are removed first, changes of rights last.
        max_entries: u64 = "5000000";
    }
}

impl UserSettings {
    /// Who may register.
    pub fn registration(&self, loopback_only: bool) -> Registration {
        match self.registration {
            Some(registration) => registration,
            None if loopback_only => Registration::OnThisMachine,
            None => Registration::Closed,
        }
    }
}

/// Leaves half of the cores to other work during a burst of sign-ins.
pub fn half_of_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}
