//! Tests of the data plane over real sockets, with real clients, small real instances and a stub of the daemon.

mod forwarding;
mod identity;
mod limits;
mod retries;
mod routing;
mod shares;
mod stopping;
mod streams;
mod support;
