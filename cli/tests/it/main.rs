//! `oo` from outside. `transcripts.rs` and `monitor.rs` use a real daemon; `program.rs` and `bad_input.rs` a stub that
//! can misbehave; `golden.rs` checks the help texts; `shells.rs` runs completion in bash (and in zsh and fish if
//! installed).

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
