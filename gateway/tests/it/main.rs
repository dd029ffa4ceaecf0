//! The data plane over real sockets: real clients, real small instances, a made-up daemon around it.

mod forwarding;
mod identity;
mod limits;
mod retries;
mod routing;
mod shares;
mod stopping;
mod streams;
mod support;
