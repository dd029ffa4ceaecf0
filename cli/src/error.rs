//! Errors of commands: a sentence for the reader and an exit code for scripts.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use openorch_api::text;
use openorch_sdk::Error;

use crate::signal;

#[derive(Debug)]
pub enum CliError {
    /// Usage error; nothing was done.
    Usage(String),
    /// A local item (an environment) does not exist.
    NotFound(String),
    NotSignedIn(String),
    Call(Error),
    /// `--timeout` expired.
    NoAnswer(String),
    /// Ctrl-C.
    Interrupted(String),
    /// An error with a hint that its own message lacks.
    Hinted(Box<CliError>, String),
    Other(String),
}

/// The response does not come from a compatible daemon.
pub const UNEXPECTED_RESPONSE: &str =
    "unexpected response from the server; `oo doctor` shows whether it is a daemon, and its version";

impl CliError {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    pub fn code(&self) -> u8 {
        match self {
            CliError::Other(_) => 1,
            CliError::Usage(_) | CliError::Call(Error::Invalid(_)) => 2,
            CliError::NotFound(_) => 3,
            CliError::NotSignedIn(_) => 4,
            CliError::Call(Error::Unreachable { .. }) | CliError::NoAnswer(_) => 5,
            CliError::Interrupted(_) => signal::EXIT_CODE,
            CliError::Hinted(failure, _) => failure.code(),
            CliError::Call(error) => match error.status() {
                Some(404) => 3,
                Some(401 | 403) => 4,
                _ => 1,
            },
        }
    }

    /// HTTP status of the refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            CliError::Call(error) => error.status(),
            CliError::Hinted(failure, _) => failure.status(),
            _ => None,
        }
    }

    /// The error without its hint.
    pub fn without_hint(self) -> CliError {
        match self {
            CliError::Hinted(failure, _) => *failure,
            failure => failure,
        }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> CliError {
        CliError::Hinted(Box::new(self), hint.into())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Usage(text)
            | CliError::NotFound(text)
            | CliError::NotSignedIn(text)
            | CliError::NoAnswer(text)
            | CliError::Interrupted(text)
            | CliError::Other(text) => f.write_str(&printable(text)),
            CliError::Hinted(failure, way_out) => write!(f, "{failure}\nhint: {}", printable(way_out)),
            // The server's sentence is complete by itself.
            CliError::Call(Error::Refused { message, request_id, .. }) => {
                f.write_str(&printable(message))?;
                match request_id {
                    Some(id) => write!(f, " [request {}]", printable(id)),
                    None => Ok(()),
                }
            }
            CliError::Call(error) => f.write_str(&printable(&error.to_string())),
        }
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> CliError {
        CliError::Call(error)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> CliError {
        match error.kind() {
            // Ctrl-C at a password prompt.
            io::ErrorKind::Interrupted => CliError::Interrupted("interrupted by Ctrl-C; nothing was done".into()),
            _ => CliError::Other(error.to_string()),
        }
    }
}

/// Prints a warning to standard error.
pub fn warn(text: &str) {
    let style = anstyle::AnsiColor::Yellow.on_default();
    // If stderr is closed, the warning is lost.
    let _ = writeln!(anstream::stderr(), "{style}warning:{style:#} {}", printable(text));
}

/// Replaces characters of foreign text that control a terminal or change how other text is displayed.
pub fn printable(text: &str) -> String {
    text::characters(text).map(|(letter, is_hidden)| if is_hidden { '\u{fffd}' } else { letter }).collect()
}

/// [`printable`] for text of several lines.
pub fn printable_lines(text: &str) -> String {
    let is_layout = |letter| matches!(letter, '\n' | '\t');
    let shown = |(letter, is_hidden)| if is_hidden && !is_layout(letter) { '\u{fffd}' } else { letter };
    text::characters(text).map(shown).collect()
}
