//! Errors of commands: a sentence for the reader and an exit code for scripts.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use openorch_api::text;
use openorch_sdk::Error;

use crate::stop;

#[derive(Debug)]
pub enum Failure {
    /// Usage error; nothing was done.
    Usage(String),
    /// A local item (an environment) does not exist.
    NotFound(String),
    NotSignedIn(String),
    Call(Error),
    /// `--timeout` expired.
    NoAnswer(String),
    /// Ctrl-C.
    Stopped(String),
    /// An error with a hint that its own message lacks.
    Hinted(Box<Failure>, String),
    Other(String),
}

/// The response does not come from a compatible daemon.
pub const FOREIGN: &str =
    "unexpected response from the server; `oo doctor` shows whether it is a daemon, and its version";

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    pub fn code(&self) -> u8 {
        match self {
            Failure::Other(_) => 1,
            Failure::Usage(_) | Failure::Call(Error::Invalid(_)) => 2,
            Failure::NotFound(_) => 3,
            Failure::NotSignedIn(_) => 4,
            Failure::Call(Error::Unreachable { .. }) | Failure::NoAnswer(_) => 5,
            Failure::Stopped(_) => stop::CODE,
            Failure::Hinted(failure, _) => failure.code(),
            Failure::Call(error) => match error.status() {
                Some(404) => 3,
                Some(401 | 403) => 4,
                _ => 1,
            },
        }
    }

    /// HTTP status of the refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::Call(error) => error.status(),
            Failure::Hinted(failure, _) => failure.status(),
            _ => None,
        }
    }

    /// The error without its hint.
    pub fn plain(self) -> Failure {
        match self {
            Failure::Hinted(failure, _) => *failure,
            failure => failure,
        }
    }

    pub fn hinted(self, way_out: impl Into<String>) -> Failure {
        Failure::Hinted(Box::new(self), way_out.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text)
            | Failure::NotFound(text)
            | Failure::NotSignedIn(text)
            | Failure::NoAnswer(text)
            | Failure::Stopped(text)
            | Failure::Other(text) => f.write_str(&printable(text)),
            Failure::Hinted(failure, way_out) => write!(f, "{failure}\nhint: {}", printable(way_out)),
            // The server's sentence is complete by itself.
            Failure::Call(Error::Refused { message, request_id, .. }) => {
                f.write_str(&printable(message))?;
                match request_id {
                    Some(id) => write!(f, " [request {}]", printable(id)),
                    None => Ok(()),
                }
            }
            Failure::Call(error) => f.write_str(&printable(&error.to_string())),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // Ctrl-C at a password prompt.
            io::ErrorKind::Interrupted => Failure::Stopped("interrupted by Ctrl-C; nothing was done".into()),
            _ => Failure::Other(error.to_string()),
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
