//! Checking and storing passwords, recording the result of a successful check, and refusing weak passwords over the
//! network (decision "Sign-in from elsewhere").

use std::net::IpAddr;

use openorch_api::{Time, user::errors};
use openorch_chassis::{Error, Platform, Result};
use openorch_store::{Batch, Filter, Stored, Table};
use zeroize::Zeroizing;

use crate::user::{
    authn::{
        passwords::{
            default_password::DefaultPassword,
            hasher::{DUMMY_HASH, hash_blocking},
            queue::{HashQueue, HashSettings, Purpose},
            rules::{PasswordRules, normalize, unicode_forms},
            throttle::Throttle,
        },
        rows::{KNOWN_ADDRESSES, KnownAddressesRow, PASSWORDS, PasswordRow},
    },
    shared::settings::UserSettings,
};

/// A password to be checked.
pub struct PasswordAttempt<'a> {
    pub password: &'a str,
    /// The key of the throttle: the account or the contact, whichever the request names, so that throttling does not
    /// reveal whether a contact belongs to an account, or to which.
    pub throttle_key: &'a str,
    /// The account to check against; empty if it does not exist.
    pub user_id: &'a str,
    pub address: IpAddr,
    /// The caller has a session of this account.
    pub is_signed_in: bool,
}

/// The result of a successful check.
pub struct Matched {
    /// The row that the password was checked against.
    pub row: Stored<PasswordRow>,
    /// The hash was computed from the normalized password.
    is_normalized: bool,
}

/// The number of stored passwords that are too weak for the network, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordCounts {
    /// Failed the network rule when last set or matched. The default password of the admin is not counted, since while
    /// it is set, the daemon serves only loopback.
    pub too_weak: u64,
    /// Set by an older version and not matched since.
    pub unknown: u64,
}

impl PasswordCounts {
    pub async fn read(rows: &Table<PasswordRow>) -> Result<PasswordCounts> {
        let with_result = |meets: bool| Filter::equals("meetsNetworkRule", meets);
        let (all, strong, weak) =
            (rows.count(&[]).await?, rows.count(&[with_result(true)]).await?, rows.count(&[with_result(false)]).await?);
        let default = rows.count(&[with_result(false), Filter::equals("isDefault", true)]).await?;
        Ok(PasswordCounts { too_weak: weak.saturating_sub(default), unknown: all.saturating_sub(strong + weak) })
    }
}

impl PasswordRow {
    /// Hashes on the calling thread; for startup and the offline reset.
    pub fn hashed_now(password: &str, is_default: bool, network: &PasswordRules, now: Time) -> Result<PasswordRow> {
        Ok(PasswordRow {
            hash: hash_blocking(password)?,
            is_default,
            meets_network_rule: Some(network.check(password).is_ok()),
            updated_at: now,
        })
    }
}

/// The passwords of all accounts.
pub struct Passwords {
    pub platform: Platform,
    /// The rules for new passwords.
    rules: PasswordRules,
    /// The rules for passwords used to sign in over the network.
    network_rules: PasswordRules,
    pub rows: Table<PasswordRow>,
    hash_queue: HashQueue,
    pub throttle: Throttle,
    pub known_addresses: Table<KnownAddressesRow>,
    /// Some stored hashes may have been computed from passwords that were not normalized.
    pub has_old_hashes: bool,
    pub default_password: DefaultPassword,
}

impl Passwords {
    pub async fn open(
        platform: &Platform,
        default_password: DefaultPassword,
        loopback_only: bool,
        settings: &UserSettings,
    ) -> Result<Passwords> {
        let rows = platform.table(&PASSWORDS);
        Ok(Passwords {
            rules: PasswordRules::from_settings(settings, loopback_only),
            network_rules: PasswordRules::from_settings(settings, false),
            has_old_hashes: PasswordCounts::read(&rows).await?.unknown > 0,
            rows,
            hash_queue: HashQueue::new(HashSettings::from_settings(settings)),
            throttle: Throttle::new(),
            known_addresses: platform.table(&KNOWN_ADDRESSES),
            default_password,
            platform: platform.clone(),
        })
    }

    pub fn now(&self) -> Time {
        self.platform.now()
    }

    /// Hashes a new password and returns its row.
    pub async fn hash_password(
        &self,
        password: &str,
        is_default: bool,
        purpose: Purpose,
        address: IpAddr,
    ) -> Result<PasswordRow> {
        Ok(PasswordRow {
            hash: self.hash_queue.hash(password, purpose, address).await?,
            is_default,
            meets_network_rule: Some(self.meets_network_rule(password)),
            updated_at: self.now(),
        })
    }

    /// Checks a password; fails if the account is throttled. An account that does not exist or has no password takes
    /// the same time.
    pub async fn check_password(&self, guess: &PasswordAttempt<'_>) -> Result<Option<Matched>> {
        if !self.rules.is_possible(guess.password) {
            return Ok(None);
        }
        let stored = self.rows.get(guess.user_id).await?;
        let hash = stored.as_ref().map_or(DUMMY_HASH, |known| &known.value.hash).to_owned();
        self.load_addresses(guess.throttle_key).await;
        let place = self.hash_queue.reserve(self.purpose_of(guess), guess.address)?;
        let begun = self.throttle.begin(guess.throttle_key, guess.address, self.now().0.as_second());
        let attempt = place.until_deadline(begun).await??;
        let found = place.find_match(self.candidates(guess.password), hash).await?;
        let Some((row, place)) = stored.zip(found) else {
            attempt.failed(self.now().0.as_second());
            return Ok(None);
        };
        attempt.succeeded();
        self.store_address(guess.user_id, guess.throttle_key, guess.address).await;
        Ok(Some(Matched { row, is_normalized: place == 0 }))
    }

    /// Checks the password again if the row has changed since the first check, by a password change or a concurrent
    /// sign-in. Returns the version of the row.
    pub async fn still_matches(&self, guess: &PasswordAttempt<'_>, hash: &str) -> Result<Option<u64>> {
        let Some(Stored { version, value: now, .. }) = self.rows.get(guess.user_id).await? else {
            return Ok(None);
        };
        if now.hash == hash {
            return Ok(Some(version));
        }
        let place = self.hash_queue.reserve(self.purpose_of(guess), guess.address)?;
        Ok(place.find_match(self.candidates(guess.password), now.hash).await?.map(|_| version))
    }

    /// Signed-in callers and sign-ins from known networks have a queue of their own.
    fn purpose_of(&self, guess: &PasswordAttempt<'_>) -> Purpose {
        match guess.is_signed_in || self.throttle.is_known(guess.throttle_key, guess.address) {
            true => Purpose::KnownSignIn,
            false => Purpose::SignIn,
        }
    }

    /// The candidate texts to compare with a hash. Their number depends only on the password, so that the duration does
    /// not reveal whether the account exists.
    fn candidates(&self, password: &str) -> Vec<Zeroizing<String>> {
        if self.has_old_hashes { unicode_forms(password) } else { vec![normalize(password)] }
    }

    /// Records whether a matched password meets the network rule, and replaces a hash of a password that was not
    /// normalized. Errors do not fail the sign-in. Returns the hash that is now stored.
    pub async fn record_match(&self, guess: &PasswordAttempt<'_>, matched: Matched) -> String {
        let Matched { row: Stored { id, version, value: before }, is_normalized } = matched;
        let meets = Some(self.meets_network_rule(guess.password));
        if before.meets_network_rule == meets && is_normalized {
            return before.hash;
        }
        let noted = async {
            let hash = match is_normalized {
                true => before.hash.clone(),
                false => self.hash_queue.hash(guess.password, self.purpose_of(guess), guess.address).await?,
            };
            let row = PasswordRow { hash, meets_network_rule: meets, ..before.clone() };
            self.platform.store.commit(Batch::new().with(self.rows.replace(&id, &row, Some(version))?)).await?;
            Ok::<_, Error>(row.hash)
        };
        match noted.await {
            Ok(hash) => hash,
            // A concurrent sign-in recorded it.
            Err(error) if error.is_write_conflict() => before.hash,
            Err(error) => {
                tracing::warn!("cannot update the password row after a sign-in: {error:?}");
                before.hash
            }
        }
    }

    /// Refuses a correct password that is too weak for sign-in over the network.
    pub fn refuse_weak_over_network(&self, password: &str, from_this_machine: bool) -> Result<()> {
        if from_this_machine {
            return Ok(());
        }
        self.network_rules.check(password).map_err(|reason| {
            Error::new(
                &errors::PASSWORD_TOO_WEAK,
                format!(
                    "this password is correct, but too weak to sign in over the network: {reason}. Set another on the \
                 daemon's machine with POST /user-svc/change-password, or have an admin reset it"
                ),
            )
        })
    }

    /// Checks a new password. Over the network, it must also be strong enough to sign in over the network.
    pub fn check_new_password(&self, password: &str, from_this_machine: bool) -> Result<()> {
        self.rules.check(password)?;
        if from_this_machine { Ok(()) } else { self.network_rules.check(password) }
    }

    fn meets_network_rule(&self, password: &str) -> bool {
        self.network_rules.check(password).is_ok()
    }

    /// Counts the stored passwords by strength.
    pub async fn counts(&self) -> Result<PasswordCounts> {
        PasswordCounts::read(&self.rows).await
    }
}
