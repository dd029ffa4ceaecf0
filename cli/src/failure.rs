//! What went wrong, as a sentence for the reader and a code for the script.

use std::{fmt, io, process::ExitCode};

use openorch_sdk::Error;

#[derive(Debug)]
pub enum Failure {
    /// The command was used wrongly; nothing was done.
    Usage(String),
    /// A thing of this command line (an environment) is not there.
    NotFound(String),
    NotSignedIn(String),
    Call(Error),
    Other(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Other(_) => 1,
            Failure::Usage(_) | Failure::Call(Error::Invalid(_)) => 2,
            Failure::NotFound(_) => 3,
            Failure::NotSignedIn(_) => 4,
            Failure::Call(Error::Unreachable { .. }) => 5,
            Failure::Call(error) => match error.status() {
                Some(404) => 3,
                Some(401 | 403) => 4,
                _ => 1,
            },
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::NotFound(text) | Failure::NotSignedIn(text) | Failure::Other(text) => {
                f.write_str(&printable(text))
            }
            // The server's sentence stands alone: it names the thing by itself.
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
        Failure::Other(error.to_string())
    }
}

/// Text of others without the characters that steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
