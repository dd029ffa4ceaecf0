//! Tests of the daemon over HTTP, with real storage. Most start it in their own process with a manual clock; tests of
//! process behaviour start the program.

mod answers;
mod apps;
mod audit;
mod calls;
mod contacts;
mod data_files;
mod database;
mod errors;
mod events;
mod flow;
mod golden;
mod identity;
mod input;
mod maintenance;
mod maintenance_on_postgres;
mod matrix;
mod metrics;
mod policy;
mod pressure;
mod process;
mod repeats;
mod rules;
mod settings;
mod support;
mod table;
mod tidy;
mod tls;
mod tokens;
mod users;
mod weaknesses;
