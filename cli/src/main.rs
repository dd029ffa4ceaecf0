//! `oo`, the command line of OpenOrch: parses the arguments, runs one command, prints its output and exits with a code
//! for scripts. Each command has its own file.

mod args;
mod auth;
mod backup;
mod batch;
mod body_args;
mod call;
mod completion;
mod config;
mod context;
mod curl;
mod doctor;
mod environment;
mod error;
mod flag;
mod input;
mod json;
mod manifest;
mod manual;
mod monitor;
mod print;
mod progress;
mod prompt;
mod raw;
mod resource;
mod signal;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{ArgMatches, FromArgMatches, error::ErrorKind};
use openorch_sdk::http::Method;

use crate::{
    args::{Args, Command, Common, Words},
    config::ConfigFile,
    context::Context,
    error::CliError,
    print::Output,
};

fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        // A group without a command, and `oo` without arguments, print their help, which is not an error.
        Err(shown) if shown.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return print(&Output::Text(shown.render().ansi().to_string()), 0);
        }
        Err(shown) => {
            let _ = shown.print();
            return ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(2));
        }
    };
    match run(&matches) {
        Ok((output, code)) => print(&output, code),
        Err(failure) => {
            progress::clear();
            let red = anstyle::AnsiColor::Red.on_default();
            // If stderr is closed too, the message is lost.
            let _ = writeln!(anstream::stderr(), "{red}Error:{red:#} {failure}");
            failure.exit_code()
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(Output, u8), CliError> {
    // Clap has already validated the arguments.
    let usage_error = |error: clap::Error| CliError::Usage(error.to_string());
    let mut context = Context::new(Common::from_arg_matches(matches).map_err(usage_error)?, ConfigFile::in_home());
    // Requests are sequential; a thread pool would cost more than the work.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // The command is polled first: until it waits for the first time, prompts included, Ctrl-C has its default
            // effect.
            biased;
            outcome = dispatch(&mut context, matches) => outcome,
            () = signal::ctrl_c() => match context.progress.is_streaming() {
                // Ctrl-C is how a streaming command ends, and leaves nothing undone.
                true => Ok((Output::Printed, signal::EXIT_CODE)),
                false => Err(CliError::Interrupted(context.progress.interrupted_message())),
            },
        }
    });
    // Do not wait for a name lookup that still runs.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(context: &mut Context, matches: &ArgMatches) -> Result<(Output, u8), CliError> {
    if let Some((word, matches)) = matches.subcommand()
        && let Some(resource) = resource::find_resource(word)
    {
        return Ok((resource::run(context, resource, matches).await?, 0));
    }
    let args = Args::from_arg_matches(matches).map_err(|error| CliError::Usage(error.to_string()))?;
    let text = match args.command {
        Command::Env(command) => environment::run(context, command)?,
        Command::Login { slug, password, app } => auth::login(context, slug, password, app).await?,
        Command::Logout { slug, all, forget } => auth::logout(context, slug, all, forget).await?,
        Command::Switch { slug } => auth::switch(context, slug)?,
        Command::Whoami => auth::whoami(context).await?,
        Command::Token => auth::token(context)?,
        Command::Register { slug, password, name, invitation, app } => {
            auth::register(context, slug, password, name, invitation, app).await?
        }
        Command::Password => auth::password(context).await?,
        Command::Get(args) => return Ok((raw::run(context, Method::GET, None, args).await?, 0)),
        Command::Post(args) => return Ok((raw::run(context, Method::POST, args.file, args.raw).await?, 0)),
        Command::Put(args) => return Ok((raw::run(context, Method::PUT, args.file, args.raw).await?, 0)),
        Command::Delete(args) => return Ok((raw::run(context, Method::DELETE, args.file, args.raw).await?, 0)),
        Command::Call { file, curl, operation } => {
            return Ok((call::run(context, Words::or_empty(operation), file, curl).await?, 0));
        }
        Command::Batch { file, stop } => return batch::run(context, &file, stop).await,
        Command::Backup { file } => backup::run(context, &file).await?,
        Command::Monitor(filters) => return Ok((monitor::run(context, filters).await?, 0)),
        Command::Doctor => return doctor::run(context).await,
        Command::Version => concat!("oo ", env!("CARGO_PKG_VERSION")).to_owned(),
        Command::Completion { shell } => completion::script(shell),
        Command::Man { directory: Some(folder), .. } => {
            manual::write(&folder)?;
            String::new()
        }
        Command::Man { words, directory: None } => manual::page(&words)?,
        Command::Complete { words } => completion::candidates(context, words).await,
    };
    Ok((Output::Text(text), 0))
}

/// Prints the output of a command. Colours are removed in files and with NO_COLOR.
fn print(output: &Output, code: u8) -> ExitCode {
    let written = match output {
        Output::Text(text) => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let mut out = anstream::stdout().lock();
            write!(out, "{text}{end}").and_then(|()| out.flush())
        }
        Output::Printed => Ok(()),
    };
    match written {
        Ok(()) => ExitCode::from(code),
        // The reader has closed the pipe (`oo node ls | head -1`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "Error: cannot write the output: {error}");
            ExitCode::FAILURE
        }
    }
}
