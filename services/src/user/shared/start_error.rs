//! Errors that prevent the user service from starting.

use std::fmt;

use openorch_chassis::Error;

/// An error that prevents the start, with its remedy.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        StartError(match error.cause {
            Some(cause) => cause.to_string(),
            None => error.message.into_owned(),
        })
    }
}

impl From<openorch_store::StoreError> for StartError {
    fn from(error: openorch_store::StoreError) -> StartError {
        StartError(error.to_string())
    }
}
