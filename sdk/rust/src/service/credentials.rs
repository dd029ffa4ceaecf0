//! Type erasure for credential stores, so that `Service` does not need a type parameter.

use std::{future::Future, pin::Pin};

use crate::{Credential, CredentialStore, Error};

/// Any credential store. `CredentialStore` itself is not dyn compatible, since its functions are async.
pub(super) struct AnyCredentialStore(Box<dyn Boxed>);

impl AnyCredentialStore {
    pub(super) fn new(store: impl CredentialStore + 'static) -> AnyCredentialStore {
        AnyCredentialStore(Box::new(store))
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

trait Boxed: Send + Sync {
    fn load(&self) -> Answer<'_, Option<Credential>>;
    fn keep(&self, fresh: Credential) -> Answer<'_, Credential>;
    fn place(&self) -> String;
}

impl<S: CredentialStore> Boxed for S {
    fn load(&self) -> Answer<'_, Option<Credential>> {
        Box::pin(CredentialStore::load(self))
    }
    fn keep(&self, fresh: Credential) -> Answer<'_, Credential> {
        Box::pin(CredentialStore::keep(self, fresh))
    }
    fn place(&self) -> String {
        CredentialStore::place(self)
    }
}

impl CredentialStore for AnyCredentialStore {
    async fn load(&self) -> Result<Option<Credential>, Error> {
        self.0.load().await
    }
    async fn keep(&self, fresh: Credential) -> Result<Credential, Error> {
        self.0.keep(fresh).await
    }
    fn place(&self) -> String {
        self.0.place()
    }
}
