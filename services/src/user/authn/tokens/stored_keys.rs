//! Stored signing keys: loaded at start, generated at the first start.

use std::sync::Arc;

use openorch_chassis::{
    Platform,
    encryption::{DecryptError, Encryptor, PUBLISHED_DEFAULT_KEY},
};
use openorch_store::{Batch, Query, Table};

use crate::user::{
    authn::{
        rows::{KEY_PAIRS, KeyPairRow},
        tokens::jwt::{KeyRing, SigningKey, VerifyingKey},
    },
    shared::start_error::StartError,
};

/// The stored keys, and writes to be committed. Decrypting the current key also checks that the encryption key is the
/// right one.
pub async fn load_keys(platform: &Platform) -> Result<Option<(KeyRing, Batch)>, StartError> {
    let pairs: Table<KeyPairRow> = platform.table(&KEY_PAIRS);
    let (mut retired, mut current) = (Vec::new(), None);
    for pair in pairs.find(&Query::all()).await? {
        match pair.value.retired {
            Some(key) => retired.push((key.at.0.as_second(), Arc::new(VerifyingKey::new(key.public)?))),
            None => current = Some(pair.value),
        }
    }
    retired.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
    let Some(mut pair) = current else { return Ok(None) };
    let (place, mut batch) = (encryption_context(&pair.id), Batch::new());
    let decrypted = match platform.encryptor.decrypt(&place, &pair.private) {
        // Data encrypted with the published default key is re-encrypted when an operator sets a key of their own.
        Err(DecryptError::WrongKey(id)) => match Encryptor::new(PUBLISHED_DEFAULT_KEY).decrypt(&place, &pair.private) {
            Ok(private) => {
                pair.private = platform.encryptor.encrypt(&place, &private);
                batch = batch.with(pairs.replace(&pair.id, &pair, None)?);
                Ok(private)
            }
            Err(_) => Err(DecryptError::WrongKey(id)),
        },
        opened => opened,
    };
    let private = decrypted.map_err(|error| match error {
        DecryptError::WrongKey(id) => StartError(format!(
            "this data was encrypted with another key (id {id}) than the configured one: set OPENORCH_ENCRYPTION_KEY \
             to the original key, or restore the file `encryption.key` in its data directory"
        )),
        DecryptError::Corrupted => {
            StartError("the stored signing key is damaged: restore the data from a backup".into())
        }
    })?;
    let current = Arc::new(SigningKey::from_pkcs8(&pair.id, &private)?);
    Ok(Some((KeyRing { current, retired }, batch)))
}

pub fn generate_key(platform: &Platform) -> Result<(KeyRing, Batch), StartError> {
    let id = platform.ids.random("keyp");
    let private = SigningKey::generate()?;
    let row = KeyPairRow {
        private: platform.encryptor.encrypt(&encryption_context(&id), &private),
        id: id.clone(),
        created_at: platform.now(),
        retired: None,
    };
    let pairs: Table<KeyPairRow> = platform.table(&KEY_PAIRS);
    let current = Arc::new(SigningKey::from_pkcs8(&id, &private)?);
    Ok((KeyRing { current, retired: Vec::new() }, Batch::new().with(pairs.create(&id, &row)?)))
}

/// The encryption context of a private key.
pub fn encryption_context(id: &str) -> String {
    format!("{}/{id}/private", KEY_PAIRS.name)
}
