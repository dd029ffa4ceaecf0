//! Password hashes: Argon2id (RFC 9106) with OWASP's parameters, on a bounded pool so that a storm of sign-ins cannot
//! take all cores, and which passwords are accepted (contract decision 13).

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use openorch_chassis::{Error, Result};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Longer ones are refused where no setting says otherwise: no person types them, and each byte costs.
const MAX_BYTES: usize = 1024;
const MIN_CHARACTERS: usize = 8;
/// More callers than this waiting for a hash are told to come back.
const MAX_WAITING: usize = 256;

/// Memory in KiB, passes, lanes: OWASP's first recommendation for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// The most used passwords of eight characters and more; a short list on purpose, it only has to stop the careless.
const COMMON: &[&str] = &[
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "qwertyui",
    "qwerty123",
    "qwertyuiop",
    "11111111",
    "00000000",
    "88888888",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "welcome1",
    "changeme",
    "changeme1",
    "changeme123",
    "letmein1",
    "admin123",
    "administrator",
    "abcd1234",
    "abc12345",
    "1q2w3e4r",
    "1qaz2wsx",
    "87654321",
    "openorch",
    "openorch1",
    "openorch123",
    "starwars",
    "computer",
    "whatever",
    "dragon123",
    "monkey123",
    "master123",
    "internet",
    "michelle",
    "jennifer",
    "samantha",
];

/// What passwords must be like.
#[derive(Clone, Copy, Debug)]
pub struct PasswordRules {
    /// Fewest characters.
    pub min: usize,
    /// Most bytes.
    pub max_bytes: usize,
    /// Whether the common ones are refused.
    pub refuse_common: bool,
}

impl PasswordRules {
    /// On loopback any password that is not empty, so that existing programs can register with short ones; beyond it at
    /// least eight characters and none of the common ones. `min` and `max_bytes` replace the lengths for both.
    pub fn new(loopback_only: bool, min: Option<usize>, max_bytes: Option<usize>) -> PasswordRules {
        let usual = if loopback_only { 1 } else { MIN_CHARACTERS };
        PasswordRules {
            min: min.unwrap_or(usual).max(1),
            max_bytes: max_bytes.unwrap_or(MAX_BYTES),
            refuse_common: !loopback_only,
        }
    }

    /// Whether this can be anybody's password at all: what cannot is not worth a hash.
    pub fn is_possible(&self, password: &str) -> bool {
        password.len() <= self.max_bytes
    }

    pub fn check(&self, password: &str) -> Result<()> {
        if password.is_empty() {
            return Err(Error::invalid("password is required"));
        }
        if !self.is_possible(password) {
            return Err(Error::invalid(format!("the password is longer than {} bytes", self.max_bytes)));
        }
        if password.chars().count() < self.min {
            return Err(Error::invalid(format!("the password needs at least {} characters", self.min)));
        }
        if self.refuse_common && COMMON.contains(&password.to_lowercase().as_str()) {
            return Err(Error::invalid("the password is one of the most used; choose another"));
        }
        Ok(())
    }
}

/// The hash of a password that nobody knows, with the parameters of all others: what is checked against it takes as long.
pub const HASH_OF_NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dmSNE7/1EQc7g8xNM0PyNA$b+1uHecm2pZiifyNbDx0yXnrH0jkfc8bD1bI4Nrhsyg";

/// The pool that hashes.
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    /// At most `at_once` hashes are computed side by side.
    pub fn new(at_once: usize) -> Passwords {
        Passwords { turns: Arc::new(Semaphore::new(at_once.max(1))), waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// The hash of a new password, in PHC string format.
    pub async fn hash(&self, password: String) -> Result<String> {
        let password = Zeroizing::new(password);
        self.take_turn(move || hash_now(&password)).await?
    }

    /// Whether this is the password behind the hash.
    pub async fn verify(&self, password: String, hash: String) -> Result<bool> {
        let password = Zeroizing::new(password);
        self.take_turn(move || {
            let parsed = PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            Ok(argon2().verify_password(password.as_bytes(), &parsed).is_ok())
        })
        .await?
    }

    async fn take_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _place = self
            .waiting
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::limited("too many sign-ins and registrations at once; try again in a moment"))?;
        let _turn = self.turns.clone().acquire_owned().await.map_err(Error::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }
}

/// Hashes on the calling thread; for start-up and the offline reset.
pub fn hash_now(password: &str) -> Result<String> {
    let hash = argon2().hash_password(password.as_bytes()).map_err(|error| Error::internal(error.to_string()))?;
    Ok(hash.to_string())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are within the algorithm's range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nobody_costs_what_others_do() {
        let nobody = PasswordHash::new(HASH_OF_NOBODY).unwrap();
        let other = hash_now("a password").unwrap();
        let other = PasswordHash::new(&other).unwrap();
        assert_eq!(
            (nobody.algorithm, nobody.version, nobody.params.to_string()),
            (other.algorithm, other.version, other.params.to_string())
        );
        assert_eq!(nobody.hash.unwrap().len(), other.hash.unwrap().len());
        assert!(argon2().verify_password(b"", &nobody).is_err());
    }

    #[test]
    fn rules_are_looser_on_loopback() {
        let (loopback, wide, long) = (
            PasswordRules::new(true, None, None),
            PasswordRules::new(false, None, None),
            PasswordRules::new(true, Some(12), None),
        );
        for (password, on_loopback, beyond, with_min) in [
            ("", false, false, false),
            ("a", true, false, false),
            ("Password", true, false, false),
            ("correct horse", true, true, true),
            (&"x".repeat(1025), false, false, false),
        ] {
            assert_eq!(loopback.check(password).is_ok(), on_loopback, "{password}");
            assert_eq!(wide.check(password).is_ok(), beyond, "{password}");
            assert_eq!(long.check(password).is_ok(), with_min, "{password}");
        }
    }
}
