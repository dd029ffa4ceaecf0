//! One test per known weakness: W1 to W25 were found in the existing systems with this wire protocol, those from W26 on
//! in this one. Each test attempts the attack over HTTP with real storage, and fails if it succeeds. Its name states
//! what is true here.
//!
//! W12 and W13 concern secrets and W24 certificates: they will come with those services. W11 is throttling, W15 the
//! address ranges that are not allowed for instances.

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
mod turns;
