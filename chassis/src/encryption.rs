//! Encryption at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) in an envelope with version and key id. The storage
//! location is authenticated as associated data, so that a value copied to another document does not decrypt.
//!
//! `v1.<key id>.<base64 of nonce and ciphertext>`

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const NONCE_LENGTH: usize = 24;

/// The default key published with other programs of this kind, which is therefore no secret.
pub const PUBLISHED_DEFAULT_KEY: &str = "changeMeToSomethingSecureForReal";

/// Encrypts and decrypts values with the daemon's encryption key.
#[derive(Clone)]
pub struct Encryptor {
    cipher: XChaCha20Poly1305,
    key_id: String,
}

/// Why a value could not be decrypted.
#[derive(Debug, PartialEq, Eq)]
pub enum DecryptError {
    /// It was encrypted with another key, with this id.
    WrongKey(String),
    /// It was modified, truncated, or copied from another location.
    Corrupted,
}

impl Encryptor {
    /// `key` is the text of `OPENORCH_ENCRYPTION_KEY` or of the generated key file.
    pub fn new(key: &str) -> Encryptor {
        let derived = Zeroizing::new(digest("openorch seal v1", key));
        let key_id = digest("openorch key id v1", key)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Encryptor { cipher: XChaCha20Poly1305::new((&*derived).into()), key_id }
    }

    /// Encrypts a value. `location` is where it is stored: collection, document id and field.
    pub fn encrypt(&self, location: &str, plain: &[u8]) -> String {
        let mut nonce = [0u8; NONCE_LENGTH];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let payload = Payload { msg: plain, aad: location.as_bytes() };
        let sealed =
            self.cipher.encrypt(&XNonce::from(nonce), payload).expect("a value in memory is not too long to seal");
        format!("v1.{}.{}", self.key_id, STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Decrypts what [`Encryptor::encrypt`] returned for the same location. Fails if the key or the location is another
    /// one, or if the value was modified.
    pub fn decrypt(&self, place: &str, envelope: &str) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let mut parts = envelope.splitn(3, '.');
        let (Some("v1"), Some(key_id), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(DecryptError::Corrupted);
        };
        if key_id != self.key_id {
            return Err(DecryptError::WrongKey(key_id.to_owned()));
        }
        let bytes = STANDARD.decode(text).map_err(|_| DecryptError::Corrupted)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LENGTH>().ok_or(DecryptError::Corrupted)?;
        let payload = Payload { msg: sealed, aad: place.as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| DecryptError::Corrupted)
    }
}

fn digest(purpose: &str, key: &str) -> [u8; 32] {
    Sha256::new().chain_update(purpose).chain_update([0]).chain_update(key).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_with_its_key_and_in_its_place() {
        let seal = Encryptor::new("a key");
        let sealed = seal.encrypt("userSvcKeyPairs/1/private", b"secret");
        assert_eq!(**seal.decrypt("userSvcKeyPairs/1/private", &sealed).unwrap(), *b"secret");
        assert_eq!(seal.decrypt("userSvcKeyPairs/2/private", &sealed), Err(DecryptError::Corrupted));
        assert!(matches!(
            Encryptor::new("other").decrypt("userSvcKeyPairs/1/private", &sealed),
            Err(DecryptError::WrongKey(_))
        ));
        assert_eq!(seal.decrypt("userSvcKeyPairs/1/private", "v1.x"), Err(DecryptError::Corrupted));
    }
}
