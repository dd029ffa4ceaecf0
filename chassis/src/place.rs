//! The place of a request among those in progress, as what serves it holds it.

use std::{any::Any, sync::Arc};

/// An extension of a request to a built-in operation. The place is free again once all copies are dropped: a client that
/// leaves does not free it while work for it goes on.
#[derive(Clone)]
pub struct Place(pub Arc<dyn Any + Send + Sync>);
