//! Checking and storing passwords of accounts: who may try, what is noted of a password that is right, and which right
//! ones are too weak for a sign-in from elsewhere than this machine (decision "Sign-in from elsewhere").

use std::net::IpAddr;

use openorch_api::{Time, user::errors};
use openorch_chassis::{Error, Platform, Result};
use openorch_store::{Batch, Filter, Stored, Table};
use zeroize::Zeroizing;

use crate::user::{
    authn::{
        passwords::{
            default_password::DefaultPassword,
            hasher::{HASH_OF_NOBODY, hash_now},
            queue::{HashQueue, HashSettings, Purpose},
            rules::{PasswordRules, normalized, spellings},
            throttle::Throttle,
        },
        rows::{KNOWN_ADDRESSES, KnownAddressesRow, PASSWORDS, PasswordRow},
    },
    shared::settings::UserSettings,
};

/// A password that may be right.
pub struct Guess<'a> {
    pub password: &'a str,
    /// What wrong ones are counted by: the account where it was named, the contact where that was, so that whether it is an
    /// account's, and which one's, does not show.
    pub counted_as: &'a str,
    /// The account whose password it may be; empty where there is none.
    pub user_id: &'a str,
    pub address: IpAddr,
    /// Its caller has a session of that account.
    pub is_signed_in: bool,
}

/// A password that is right.
pub struct Matched {
    /// The row that it was compared with.
    pub row: Stored<PasswordRow>,
    /// The hash is of its normalized form.
    is_normalized: bool,
}

/// How many of the stored passwords are too weak for the network, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordCounts {
    /// They did not meet the rule when they were set or matched last. The admin's default password, with which the daemon
    /// is not reached from elsewhere at all, is not among them.
    pub too_weak: u64,
    /// Set by an older version and not matched since.
    pub unknown: u64,
}

impl PasswordCounts {
    pub async fn read(rows: &Table<PasswordRow>) -> Result<PasswordCounts> {
        let noted = |meets: bool| Filter::equals("meetsNetworkRule", meets);
        let (all, strong, weak) =
            (rows.count(&[]).await?, rows.count(&[noted(true)]).await?, rows.count(&[noted(false)]).await?);
        let default = rows.count(&[noted(false), Filter::equals("isDefault", true)]).await?;
        Ok(PasswordCounts { too_weak: weak.saturating_sub(default), unknown: all.saturating_sub(strong + weak) })
    }
}

impl PasswordRow {
    /// Hashes on the calling thread; for start-up and the offline reset.
    pub fn hashed_now(password: &str, is_default: bool, network: &PasswordRules, now: Time) -> Result<PasswordRow> {
        Ok(PasswordRow {
            hash: hash_now(password)?,
            is_default,
            meets_network_rule: Some(network.check(password).is_ok()),
            updated_at: now,
        })
    }
}

/// The passwords of all accounts.
pub struct Passwords {
    pub platform: Platform,
    /// What new passwords must be like.
    rules: PasswordRules,
    /// What a password must be like with which somebody signs in from elsewhere than this machine.
    network_rules: PasswordRules,
    pub rows: Table<PasswordRow>,
    hashes: HashQueue,
    pub throttle: Throttle,
    pub known_addresses: Table<KnownAddressesRow>,
    /// Whether some stored hash may be of a password that was not normalized.
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
            rules: PasswordRules::of(settings, loopback_only),
            network_rules: PasswordRules::of(settings, false),
            has_old_hashes: PasswordCounts::read(&rows).await?.unknown > 0,
            rows,
            hashes: HashQueue::new(HashSettings::of(settings)),
            throttle: Throttle::new(),
            known_addresses: platform.table(&KNOWN_ADDRESSES),
            default_password,
            platform: platform.clone(),
        })
    }

    pub fn now(&self) -> Time {
        self.platform.now()
    }

    /// The row of a new password.
    pub async fn hash_password(
        &self,
        password: &str,
        is_default: bool,
        purpose: Purpose,
        address: IpAddr,
    ) -> Result<PasswordRow> {
        Ok(PasswordRow {
            hash: self.hashes.hash(password, purpose, address).await?,
            is_default,
            meets_network_rule: Some(self.meets_network_rule(password)),
            updated_at: self.now(),
        })
    }

    /// The password's row if it is the account's password, unless too many wrong ones were tried. The work is the same for
    /// an account that there is not, or that has no password.
    pub async fn match_password(&self, guess: &Guess<'_>) -> Result<Option<Matched>> {
        if !self.rules.is_possible(guess.password) {
            return Ok(None);
        }
        let known = self.rows.get(guess.user_id).await?;
        let hash = known.as_ref().map_or(HASH_OF_NOBODY, |known| &known.value.hash).to_owned();
        self.recall_addresses(guess.counted_as).await;
        let place = self.hashes.place(self.purpose_of(guess), guess.address)?;
        let begun = self.throttle.begin(guess.counted_as, guess.address, self.now().0.as_second());
        let attempt = place.keep(begun).await??;
        let found = place.find(self.texts(guess.password), hash).await?;
        let Some((row, place)) = known.zip(found) else {
            attempt.failed(self.now().0.as_second());
            return Ok(None);
        };
        attempt.succeeded();
        self.store_address(guess.user_id, guess.counted_as, guess.address).await;
        Ok(Some(Matched { row, is_normalized: place == 0 }))
    }

    /// Whether a password that was right a moment ago is so still: the row may have changed since it was compared, by
    /// another password or by what another sign-in noted. Answers the version of the row.
    pub async fn still_matches(&self, guess: &Guess<'_>, hash: &str) -> Result<Option<u64>> {
        let Some(Stored { version, value: now, .. }) = self.rows.get(guess.user_id).await? else {
            return Ok(None);
        };
        if now.hash == hash {
            return Ok(Some(version));
        }
        let place = self.hashes.place(self.purpose_of(guess), guess.address)?;
        Ok(place.find(self.texts(guess.password), now.hash).await?.map(|_| version))
    }

    /// Sign-ins from known networks, and by signed-in callers, have a line of their own.
    fn purpose_of(&self, guess: &Guess<'_>) -> Purpose {
        match guess.is_signed_in || self.throttle.knows(guess.counted_as, guess.address) {
            true => Purpose::KnownSignIn,
            false => Purpose::SignIn,
        }
    }

    /// The texts that a hash is compared with. How many there are depends on the password alone, so that the time that it
    /// takes does not show whether there is an account.
    fn texts(&self, password: &str) -> Vec<Zeroizing<String>> {
        if self.has_old_hashes { spellings(password) } else { vec![normalized(password)] }
    }

    /// Notes whether a right password meets the network's rule, and replaces a hash that is not of its normalized form. A
    /// sign-in does not fail by it. Answers the hash that is stored now.
    pub async fn note_match(&self, guess: &Guess<'_>, matched: Matched) -> String {
        let Matched { row: Stored { id, version, value: before }, is_normalized } = matched;
        let meets = Some(self.meets_network_rule(guess.password));
        if before.meets_network_rule == meets && is_normalized {
            return before.hash;
        }
        let noted = async {
            let hash = match is_normalized {
                true => before.hash.clone(),
                false => self.hashes.hash(guess.password, self.purpose_of(guess), guess.address).await?,
            };
            let row = PasswordRow { hash, meets_network_rule: meets, ..before.clone() };
            self.platform.store.commit(Batch::new().with(self.rows.replace(&id, &row, Some(version))?)).await?;
            Ok::<_, Error>(row.hash)
        };
        match noted.await {
            Ok(hash) => hash,
            // Another sign-in noted it at the same time.
            Err(error) if error.is_lost_race() => before.hash,
            Err(error) => {
                tracing::warn!("what a sign-in shows of a password could not be stored: {error:?}");
                before.hash
            }
        }
    }

    /// Refuses a right password with which nobody may sign in from elsewhere than this machine.
    pub fn refuse_weak_from_elsewhere(&self, password: &str, from_this_machine: bool) -> Result<()> {
        if from_this_machine {
            return Ok(());
        }
        self.network_rules.check(password).map_err(|reason| {
            Error::new(&errors::PASSWORD_TOO_WEAK, format!(
                "this password is right, but too weak to sign in with over the network: {reason}. Set another on the \
                 daemon's machine with POST /user-svc/change-password, or have an admin reset it"
            ))
        })
    }

    /// Whether this may become a password. One that is set from elsewhere must do for a sign-in from there.
    pub fn check_new_password(&self, password: &str, from_this_machine: bool) -> Result<()> {
        self.rules.check(password)?;
        if from_this_machine { Ok(()) } else { self.network_rules.check(password) }
    }

    fn meets_network_rule(&self, password: &str) -> bool {
        self.network_rules.check(password).is_ok()
    }

    /// What is known of the strength of the stored passwords.
    pub async fn counts(&self) -> Result<PasswordCounts> {
        PasswordCounts::read(&self.rows).await
    }
}
