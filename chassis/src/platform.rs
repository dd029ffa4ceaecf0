//! What a service is made from: the store, the clock and everything else that the daemon gives to all of them alike.

use std::{path::PathBuf, sync::Arc};

use openorch_api::{Time, error::request};
use openorch_store::{Batch, Collection, Committed, Store, StoreError, Table};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Audit, BoxFuture, Error, Mounted, Result,
    ages::Ages,
    audit::CallAudit,
    clock::Clock,
    ids::Ids,
    mail::Mailer,
    metrics::Registry,
    outbound::Outbound,
    routes::Routes,
    seal::Seal,
    settings::{Given, Section, Settings},
};

/// A built-in service as the daemon's list of services has it.
pub struct Module {
    /// Its sections of the settings.
    pub settings: &'static [Section],
    /// Its collections, which are opened before it starts.
    pub collections: &'static [&'static Collection],
    /// Reads what it holds in memory and puts it together. What it serves begins once all services have started.
    pub start: for<'a> fn(&'a Platform) -> BoxFuture<'a, Result<Mounted>>,
}

/// What services are made from.
#[derive(Clone)]
pub struct Platform {
    /// For what is read, and for what the daemon writes by itself. The changes of a call are made by [`Platform::commit`].
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    /// Asked before something ends for its age.
    pub ages: Arc<Ages>,
    pub ids: Arc<Ids>,
    pub seal: Seal,
    pub audit: Arc<Audit>,
    /// To which each service adds its own.
    pub metrics: Arc<Registry>,
    pub mailer: Arc<dyn Mailer>,
    /// Opens connections to addresses that users give.
    pub outbound: Arc<Outbound>,
    /// The gateway's routing table.
    pub routes: Arc<dyn Routes>,
    pub node: NodePlace,
    /// A list that cannot be asked for in pages is answered whole up to here (decision "Queries and lists").
    pub max_unpaged_list: usize,
    /// The settings, which were checked when the daemon started.
    pub given: Arc<Given>,
}

/// Where this daemon is and what it stores.
#[derive(Clone, Debug)]
pub struct NodePlace {
    /// The URL under which other daemons and services reach this one.
    pub url: String,
    /// The directory whose free space the node reports.
    pub data_dir: PathBuf,
}

impl Platform {
    /// The documents of a collection.
    pub fn table<T: Serialize + DeserializeOwned>(&self, collection: &'static Collection) -> Table<T> {
        Table::new(self.store.clone(), collection)
    }

    /// Makes the change of a call: see [`Audit::commit`].
    pub async fn commit(&self, call: &CallAudit, batch: Batch) -> Result<Committed, StoreError> {
        self.audit.commit(call, batch).await
    }

    /// The settings of a section.
    pub fn settings<S: Settings>(&self) -> Result<S> {
        S::read(&self.given).map_err(Error::internal)
    }

    /// The time of the platform's clock.
    pub fn now(&self) -> Time {
        Time(self.clock.now())
    }

    /// Nothing is cut silently: a list that is too long is refused with the way out.
    pub fn refuse_long_list(&self, length: usize, of: &str, way_out: &str) -> Result<()> {
        if length > self.max_unpaged_list {
            return Err(Error::new(
                &request::LIST_TOO_LONG,
                format!("there are more than {} {of}; {way_out}", self.max_unpaged_list),
            ));
        }
        Ok(())
    }
}
