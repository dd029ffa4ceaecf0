//! The data plane over real sockets: real clients, real small instances, a made-up daemon around it.

mod forwarding;
mod identity;
mod routing;
mod support;
