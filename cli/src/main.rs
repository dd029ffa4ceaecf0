//! `oo`, the command line of OpenOrch: reads the arguments, runs one command, prints its text, ends with a code that
//! scripts can act on. What a command does stands in its own file.

mod args;
mod call;
mod config;
mod context;
mod environment;
mod failure;
mod input;
mod instance;
mod node;
mod print;
mod sign_in;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{
    args::{Args, Command, InstanceCommand, NodeCommand, Operation},
    config::ConfigFile,
    context::Context,
    failure::Failure,
};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // A group without a command, and `oo` alone, show their help: that is an answer, not a failure.
        Err(shown) if shown.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return print(&shown.render().to_string());
        }
        Err(shown) => {
            let _ = shown.print();
            return ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(2));
        }
    };
    match run(args) {
        Ok(text) => print(&text),
        Err(failure) => {
            // Nothing is left to be told if stderr is closed too.
            let _ = writeln!(io::stderr(), "Error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(args: Args) -> Result<String, Failure> {
    let Some(command) = args.command else { return Ok(Args::command().render_help().to_string()) };
    let context = Context::new(args.common, ConfigFile::in_home()?);
    // One request after the other: a thread pool would cost more than it does.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Env(command) => environment::run(&context, command),
            Command::Login { slug, password } => sign_in::login(&context, slug, password).await,
            Command::Register { slug, password, name, invitation } => {
                sign_in::register(&context, slug, password, name, invitation).await
            }
            Command::Whoami => sign_in::whoami(&context).await,
            Command::Token => sign_in::token(&context),
            Command::Instance(InstanceCommand::List) => instance::list(&context).await,
            Command::Instance(InstanceCommand::Remove { id }) => instance::remove(&context, id).await,
            Command::Node(NodeCommand::List) => node::list(&context).await,
            Command::Call { operation: None } => call::list(&context),
            Command::Call { operation: Some(Operation::Named(words)) } => call::run(context, words).await,
        }
    })
}

fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough (`oo node ls | head -1`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "Error: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}
