//! The addresses from which accounts have signed in, stored for the throttle: without them, after a restart, an
//! attacker's guesses would throttle the owner at the usual address. Only the latest few per account are kept. A row is
//! written when an address is new and then once a day.

use std::net::IpAddr;

use openorch_api::Time;
use openorch_chassis::{Result, forwarded::client_network};
use sha2::{Digest, Sha256};

use crate::user::{
    authn::{
        passwords::check::Passwords,
        rows::{KnownAddress, KnownAddressesRow},
    },
    shared::contact_address::throttle_key,
};

/// Maximum number of addresses per account; the least recently used is removed first.
const MAX_ADDRESSES: usize = 16;
const STORE_INTERVAL: i64 = 24 * 3600;

impl Passwords {
    /// Loads the known addresses of an account or contact into the throttle, once; a missing row is remembered too.
    pub async fn load_addresses(&self, counted_as: &str) {
        if self.throttle.has_loaded(counted_as) {
            return;
        }
        match self.known_addresses.get(&row_id(counted_as)).await {
            Ok(row) => {
                let stored = row.into_iter().flat_map(|row| row.value.addresses);
                let stored = stored.filter_map(|known| Some((known.network.parse().ok()?, known.at.0.as_second())));
                self.throttle.load(counted_as, stored);
            }
            Err(error) => tracing::warn!("cannot read the known addresses of an account: {error}"),
        }
    }

    /// Whether the account of this contact has signed in from this address.
    pub async fn is_known_network(&self, contact: &str, address: IpAddr) -> bool {
        let counted_as = throttle_key(contact);
        self.load_addresses(&counted_as).await;
        self.throttle.stored_at(&counted_as, address) != i64::MIN
    }

    /// Stores the address of a sign-in. Errors do not fail the sign-in.
    pub async fn store_address(&self, user_id: &str, counted_as: &str, address: IpAddr) {
        let now = self.now();
        if now.0.as_second() - STORE_INTERVAL < self.throttle.stored_at(counted_as, address) {
            return;
        }
        match self.add_address(user_id, counted_as, client_network(address), now).await {
            Ok(()) => self.throttle.load(counted_as, [(address, now.0.as_second())]),
            Err(error) => tracing::warn!("cannot store the address of a sign-in: {error}"),
        }
    }

    async fn add_address(&self, user_id: &str, counted_as: &str, network: IpAddr, now: Time) -> Result<()> {
        let id = row_id(counted_as);
        let existing = self.known_addresses.get(&id).await?.map(|row| row.value).filter(|row| row.user_id == user_id);
        let mut addresses = existing.map(|row| row.addresses).unwrap_or_default();
        let network = network.to_string();
        addresses.retain(|known| known.network != network);
        addresses.push(KnownAddress { network, at: now });
        let excess = addresses.len().saturating_sub(MAX_ADDRESSES);
        addresses.drain(..excess);
        let row = KnownAddressesRow { user_id: user_id.to_owned(), addresses };
        self.platform.store.commit(self.known_addresses.upsert(&id, &row)?.into()).await?;
        Ok(())
    }
}

/// A digest, since a contact may be longer than an id, and contacts are not stored where they are not needed.
fn row_id(counted_as: &str) -> String {
    Sha256::digest(counted_as).iter().map(|byte| format!("{byte:02x}")).collect()
}
