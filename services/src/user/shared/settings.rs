//! What the user service runs with: its sections of the settings, and what follows from them.

use std::time::Duration;

use openorch_chassis::{setting_choice, settings, settings::ByteSize};

/// Who may register an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    Open,
    /// Programs on this machine: the default while only loopback is served, which pages in a browser reach as well.
    OnThisMachine,
    /// With the code of an invitation.
    Invite,
    Closed,
}

setting_choice!(Registration { Open = "open", Invite = "invite", Closed = "closed" });

settings! {
    /// Accounts, sessions and access rules: `[user]`.
    pub struct UserSettings in "user" {
        /// Who may register an account: open, invite or closed.
        registration: Option<Registration> = "open on loopback, else closed", as "OPENORCH_REGISTRATION";
        /// Minimum password length, in characters.
        password_min: Option<usize> = "1 on loopback, else 8", as "OPENORCH_PASSWORD_MIN";
        /// Maximum password length, in bytes.
        password_max_bytes: ByteSize = "1KiB";
        /// Password hashes computed side by side.
        password_hash_concurrency: Option<usize> = "half of the cores";
        /// Longest time that a sign-in or registration waits for its password to be hashed.
        password_hash_max_wait: Duration = "10s";
        /// Token lifetime (`exp`).
        token_lifetime: Duration = "24h";
        /// Tokens signed side by side.
        token_signing_concurrency: Option<usize> = "half of the cores";
        /// Lifetime of a delegated token.
        delegated_token_lifetime: Duration = "5m";
        /// A session ends when it is not used for this time.
        session_idle_timeout: Duration = "2160h";
        /// A session ends after this time, however much it is used.
        session_max_lifetime: Option<Duration> = "none";
        /// Sessions of one account; with one more the one idle longest ends.
        max_sessions_per_account: u64 = "1000";
        /// Time that a service may keep the answer whether a caller has a permission.
        permission_cache_ttl: Duration = "10s";
        /// Accounts, sessions, tokens and delegated tokens held in memory, each.
        max_cache_entries: u64 = "50000";
        /// Memory for roles, permissions, their links and grants of all accounts (estimated).
        max_access_rule_memory: ByteSize = "128MiB";
        /// The same of one account that is no admin.
        max_access_rule_memory_per_account: ByteSize = "4MiB";
        /// Slugs and roles that all grants and permits of an account that is no admin may name together.
        max_grant_names_per_account: usize = "10000";
        /// Role assignments that an account that is no admin may have made, those that wait for a contact included.
        max_role_assignments_per_account: u64 = "10000";
    }
}

settings! {
    /// The audit log: `[audit]`.
    pub struct AuditSettings in "audit" {
        /// Time that entries of the audit log are kept.
        retention: Duration = "8760h";
        /// Maximum number of entries of the audit log; the oldest are removed first.
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

/// A storm of sign-ins leaves half of the cores to everything else.
pub fn half_of_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}
