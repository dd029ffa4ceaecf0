//! The daemon from outside: over HTTP, with real storage; most tests start it inside their process with a clock of
//! their own, those about processes start the program.

mod answers;
mod apps;
mod audit;
mod calls;
mod contacts;
mod database;
mod errors;
mod events;
mod flow;
mod golden;
mod identity;
mod input;
mod keep;
mod keep_on_postgres;
mod live;
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
