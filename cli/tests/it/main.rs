//! `oo` from outside. `transcripts.rs` and `monitor.rs` meet a real daemon; `program.rs` and `bad_input.rs` a stub that can misbehave;
//! `golden.rs` keeps the help texts; `shells.rs` asks bash (and zsh and fish, where they are installed) to complete.

mod bad_input;
mod golden;
#[cfg(unix)]
mod monitor;
mod program;
#[cfg(unix)]
mod shells;
mod support;
#[cfg(unix)]
mod terminal;
#[cfg(unix)]
mod transcripts;
