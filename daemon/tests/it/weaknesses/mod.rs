//! The weaknesses that were found in the systems whose wire this one speaks, W1 to W25, and from W26 on those that were
//! found in this one, one test each: every test tries the attack over HTTP with real storage, and fails where it would
//! still succeed. Its name says what is true here.
//!
//! W12 and W13 are about secrets and W24 about certificates: they come with those services. W11 means throttling, W15
//! the ranges of addresses that nobody may register.

mod accounts;
mod caches;
mod contacts;
mod enrolls;
mod managers;
mod meanwhile;
mod names;
mod network;
mod organizations;
mod passwords;
mod pending;
mod probes;
mod quotas;
mod resources;
mod rights;
mod sessions;
mod traces;
