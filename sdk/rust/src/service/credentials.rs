//! Type erasure for credential stores, so that `Service` does not need a type parameter.

use std::{future::Future, pin::Pin};

use crate::{Credential, CredentialStore, Error};

/// Any credential store. `CredentialStore` itself is not dyn compatible, since its functions are async.
pub(super) struct AnyCredentialStore(Box<dyn DynCredentialStore>);

impl AnyCredentialStore {
    pub(super) fn new(store: impl CredentialStore + 'static) -> AnyCredentialStore {
        AnyCredentialStore(Box::new(store))
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

trait DynCredentialStore: Send + Sync {
    fn load(&self) -> BoxFuture<'_, Option<Credential>>;
    fn get_or_insert(&self, fresh: Credential) -> BoxFuture<'_, Credential>;
    fn location(&self) -> String;
}

impl<S: CredentialStore> DynCredentialStore for S {
    fn load(&self) -> BoxFuture<'_, Option<Credential>> {
        Box::pin(CredentialStore::load(self))
    }
    fn get_or_insert(&self, fresh: Credential) -> BoxFuture<'_, Credential> {
        Box::pin(CredentialStore::get_or_insert(self, fresh))
    }
    fn location(&self) -> String {
        CredentialStore::location(self)
    }
}

impl CredentialStore for AnyCredentialStore {
    async fn load(&self) -> Result<Option<Credential>, Error> {
        self.0.load().await
    }
    async fn get_or_insert(&self, fresh: Credential) -> Result<Credential, Error> {
        self.0.get_or_insert(fresh).await
    }
    fn location(&self) -> String {
        self.0.location()
    }
}
