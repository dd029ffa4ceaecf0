//! The dependencies of every built-in service: the store, the clock and the other shared components of the daemon.

use std::{path::PathBuf, sync::Arc};

use openorch_api::{Time, error::request};
use openorch_store::{Batch, Collection, Committed, Store, StoreError, Table};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Audit, BoxFuture, BuiltService, Error, Result,
    audit::CallAudit,
    clock::Clock,
    encryption::Encryptor,
    expiry::ExpiryGrace,
    ids::Ids,
    mail::Mailer,
    metrics::Registry,
    outbound::Outbound,
    routes::Routes,
    settings::{RawSettings, Section, Settings},
};

/// An entry of the daemon's list of built-in services.
pub struct Module {
    /// Its sections of the settings.
    pub settings: &'static [Section],
    /// Its collections, opened before the service starts.
    pub collections: &'static [&'static Collection],
    /// Loads its in-memory state and builds the service. Requests are accepted once all services have started.
    pub start: for<'a> fn(&'a Platform) -> BoxFuture<'a, Result<BuiltService>>,
}

/// The dependencies shared by all services.
#[derive(Clone)]
pub struct Platform {
    /// For reads, and for writes of background tasks. The changes of a call are committed by [`Platform::commit`].
    pub store: Arc<dyn Store>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Consulted before anything expires by age.
    pub expiry: Arc<ExpiryGrace>,
    /// Generates the ids of documents.
    pub ids: Arc<Ids>,
    /// Encrypts what is stored encrypted.
    pub encryptor: Encryptor,
    /// The audit log.
    pub audit: Arc<Audit>,
    /// Where each service registers its metrics.
    pub metrics: Arc<Registry>,
    /// Sends e-mail.
    pub mailer: Arc<dyn Mailer>,
    /// Opens connections to addresses configured by users.
    pub outbound: Arc<Outbound>,
    /// The gateway's routing table.
    pub routes: Arc<dyn Routes>,
    /// The URL and the data directory of this daemon.
    pub node: LocalNode,
    /// Maximum number of entries of a list without pagination (decision "Queries and lists").
    pub max_unpaged_list: usize,
    /// The settings, validated at startup.
    pub raw_settings: Arc<RawSettings>,
}

/// The URL and the data directory of this daemon.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// The URL at which other daemons and services reach this one.
    pub url: String,
    /// The directory whose free space the node reports.
    pub data_dir: PathBuf,
}

impl Platform {
    /// A typed view of a collection.
    pub fn table<T: Serialize + DeserializeOwned>(&self, collection: &'static Collection) -> Table<T> {
        Table::new(self.store.clone(), collection)
    }

    /// Commits the change of a call: see [`Audit::commit`].
    pub async fn commit(&self, call: &CallAudit, batch: Batch) -> Result<Committed, StoreError> {
        self.audit.commit(call, batch).await
    }

    /// The settings of a section.
    pub fn settings<S: Settings>(&self) -> Result<S> {
        S::read(&self.raw_settings).map_err(Error::internal)
    }

    /// The current time of the platform's clock.
    pub fn now(&self) -> Time {
        Time(self.clock.now())
    }

    /// Rejects a list that is longer than [`Platform::max_unpaged_list`], with the remedy: no list is truncated silently.
    pub fn check_list_length(&self, length: usize, of: &str, remedy: &str) -> Result<()> {
        if length > self.max_unpaged_list {
            return Err(Error::new(
                &request::LIST_TOO_LONG,
                format!("there are more than {} {of}; {remedy}", self.max_unpaged_list),
            ));
        }
        Ok(())
    }
}
