//! A slot in the limit on concurrent requests.

use std::{any::Any, sync::Arc};

/// A request extension for built-in operations. The slot is released when all clones are dropped: a client that disconnects
/// does not release it while work for it continues.
#[derive(Clone)]
pub struct InFlightGuard(pub Arc<dyn Any + Send + Sync>);
