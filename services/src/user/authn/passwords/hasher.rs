//! Argon2id (RFC 9106) with OWASP's parameters. The 19 MiB buffer of each hash is reused: if it were freed each time,
//! the allocator would retain many times as much, since it raises its threshold for mapped memory.

use std::sync::{Mutex, PoisonError};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Output, ParamsString, Salt},
};
use openorch_chassis::{Error, Result};
use zeroize::Zeroizing;

use crate::user::authn::passwords::rules::normalize;

/// Memory in KiB, passes, lanes: OWASP's first recommendation for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const SALT_BYTES: usize = 16;

/// A hash that no known password matches, with the usual parameters, so that checking against it takes the usual time.
pub const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dmSNE7/1EQc7g8xNM0PyNA$b+1uHecm2pZiifyNbDx0yXnrH0jkfc8bD1bI4Nrhsyg";

/// Computes hashes. The caller limits concurrency.
#[derive(Default)]
pub struct Hasher {
    /// Buffers not in use; at most as many as hashes ever ran concurrently.
    free_buffers: Mutex<Vec<Vec<Block>>>,
}

impl Hasher {
    /// Hashes the normalized password; returns a PHC string.
    pub fn hash(&self, password: &str) -> Result<String> {
        let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|error| Error::internal(error.to_string()))?;
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt)
            .map_err(|_| Error::internal("the operating system provided no random bytes"))?;
        let phc = |error: argon2::password_hash::phc::Error| Error::internal(error.to_string());
        let version = Version::V0x13;
        let output_bytes = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        let phc_params = ParamsString::try_from(&params).map_err(|error| Error::internal(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
        let output = self.compute(&argon2, normalize(password).as_bytes(), &salt, output_bytes)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(version.into()),
            params: phc_params,
            salt: Some(Salt::new(&salt).map_err(phc)?),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    /// The index of the text that matches the hash. All are tried even after a match, for constant time.
    pub fn find_match(&self, texts: &[Zeroizing<String>], hash: &str) -> Result<Option<usize>> {
        let unreadable = || Error::internal("a stored password hash is not a valid Argon2 hash with salt and output");
        let parsed = PasswordHash::new(hash).map_err(|error| Error::internal(error.to_string()))?;
        let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else { return Err(unreadable()) };
        let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).map_err(|_| unreadable())?;
        let version = parsed.version.map(Version::try_from).transpose().map_err(|_| unreadable())?;
        let params = Params::try_from(&parsed).map_err(|_| unreadable())?;
        let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params);
        let mut found = None;
        for (index, text) in texts.iter().enumerate() {
            // Outputs are compared in constant time.
            if self.compute(&argon2, text.as_bytes(), &salt, expected.len())? == expected {
                found = found.or(Some(index));
            }
        }
        Ok(found)
    }

    fn compute(&self, argon2: &Argon2, password: &[u8], salt: &[u8], output_bytes: usize) -> Result<Output> {
        let mut memory = self.idle().pop().unwrap_or_default();
        let blocks = argon2.params().block_count();
        if memory.len() < blocks {
            memory = vec![Block::new(); blocks];
        }
        let mut output = [0; Output::MAX_LENGTH];
        let computed = match output.get_mut(..output_bytes) {
            Some(output) => argon2.hash_password_into_with_memory(password, salt, output, &mut memory),
            None => Err(argon2::Error::OutputTooLong),
        };
        self.idle().push(memory);
        computed.map_err(|error| Error::internal(error.to_string()))?;
        Output::new(&output[..output_bytes]).map_err(|error| Error::internal(error.to_string()))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        self.free_buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hashes on the calling thread; for startup and the offline reset.
pub fn hash_blocking(password: &str) -> Result<String> {
    Hasher::default().hash(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::authn::passwords::rules::unicode_forms;

    #[test]
    fn the_dummy_hash_has_the_usual_cost() {
        let dummy = PasswordHash::new(DUMMY_HASH).unwrap();
        let other = hash_blocking("a password").unwrap();
        let other = PasswordHash::new(&other).unwrap();
        assert_eq!(
            (dummy.algorithm, dummy.version, dummy.params.to_string()),
            (other.algorithm, other.version, other.params.to_string())
        );
        assert_eq!(dummy.hash.unwrap().len(), other.hash.unwrap().len());
        assert_eq!(Hasher::default().find_match(&unicode_forms(""), DUMMY_HASH).unwrap(), None);
    }

    #[test]
    fn sequential_hashes_reuse_the_same_buffer() {
        let hasher = Hasher::default();
        let hash = hasher.hash("e\u{301}").unwrap();
        let buffer = |hasher: &Hasher| hasher.idle()[0].as_ptr() as usize;
        let first = buffer(&hasher);
        assert_eq!(hasher.find_match(&unicode_forms("\u{e9}"), &hash).unwrap(), Some(0), "normalized");
        assert_eq!(hasher.find_match(&unicode_forms("e"), &hash).unwrap(), None);
        assert_eq!(buffer(&hasher), first);
        assert_eq!(hasher.idle().len(), 1);
        // Made by the crate's own high-level API, with other parameters and an output of 16 bytes.
        let params = Params::new(8 * 1024, 1, 2, Some(16)).unwrap();
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        use argon2::PasswordHasher;
        let other = other.hash_password(b"pass").unwrap().to_string();
        assert_eq!(hasher.find_match(&unicode_forms("pass"), &other).unwrap(), Some(0));
    }
}
