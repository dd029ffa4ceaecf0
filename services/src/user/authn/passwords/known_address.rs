//! The addresses from which accounts have signed in, as the throttle needs them after a restart: without them a stranger's
//! guesses would make the owner wait at its usual address. The latest few of each account; written when one is new, and
//! once a day.

use std::net::IpAddr;

use openorch_api::Time;
use openorch_chassis::{Result, forwarded::network};
use sha2::{Digest, Sha256};

use crate::user::{
    authn::{
        passwords::check::Passwords,
        rows::{KnownAddress, KnownAddressesRow},
    },
    shared::contact_address::by_contact,
};

/// How many addresses of an account are kept; the one that was used longest ago goes first.
const MOST: usize = 16;
const STORED_EVERY: i64 = 24 * 3600;

impl Passwords {
    /// Brings the throttle to know from where an account, or a contact, has signed in. Asks the store the first time alone,
    /// and the same for what there is not.
    pub async fn recall_addresses(&self, counted_as: &str) {
        if self.throttle.has_recalled(counted_as) {
            return;
        }
        match self.known_addresses.get(&row_id(counted_as)).await {
            Ok(row) => {
                let stored = row.into_iter().flat_map(|row| row.value.addresses);
                let stored = stored.filter_map(|known| Some((known.network.parse().ok()?, known.at.0.as_second())));
                self.throttle.recall(counted_as, stored);
            }
            Err(error) => tracing::warn!("the addresses an account signed in from cannot be read: {error}"),
        }
    }

    /// Whether somebody has signed in with this contact from this address.
    pub async fn knows_contact_at(&self, contact: &str, address: IpAddr) -> bool {
        let counted_as = by_contact(contact);
        self.recall_addresses(&counted_as).await;
        self.throttle.stored_at(&counted_as, address) != i64::MIN
    }

    /// Stores that an account signed in from an address. A sign-in does not fail by it.
    pub async fn store_address(&self, user_id: &str, counted_as: &str, address: IpAddr) {
        let now = self.now();
        if now.0.as_second() - STORED_EVERY < self.throttle.stored_at(counted_as, address) {
            return;
        }
        match self.add_address(user_id, counted_as, network(address), now).await {
            Ok(()) => self.throttle.recall(counted_as, [(address, now.0.as_second())]),
            Err(error) => tracing::warn!("the address of a sign-in could not be stored: {error}"),
        }
    }

    async fn add_address(&self, user_id: &str, counted_as: &str, network: IpAddr, now: Time) -> Result<()> {
        let id = row_id(counted_as);
        let known = self.known_addresses.get(&id).await?.map(|row| row.value).filter(|row| row.user_id == user_id);
        let mut addresses = known.map(|row| row.addresses).unwrap_or_default();
        let network = network.to_string();
        addresses.retain(|known| known.network != network);
        addresses.push(KnownAddress { network, at: now });
        let beyond = addresses.len().saturating_sub(MOST);
        addresses.drain(..beyond);
        let row = KnownAddressesRow { user_id: user_id.to_owned(), addresses };
        self.platform.store.commit(self.known_addresses.upsert(&id, &row)?.into()).await?;
        Ok(())
    }
}

/// A digest: a contact may be longer than an id, and is written down nowhere where it is not needed.
fn row_id(counted_as: &str) -> String {
    Sha256::digest(counted_as).iter().map(|byte| format!("{byte:02x}")).collect()
}
