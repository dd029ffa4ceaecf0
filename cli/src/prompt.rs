//! Prompts. They run before the first request is sent: from then on `oo` handles Ctrl-C itself, which would not end a
//! prompt. Without a terminal the answers are lines of standard input.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::{CliError, warn};

/// The slug of an account.
pub fn slug(given: Option<String>) -> Result<String, CliError> {
    let slug = match given {
        Some(slug) => slug,
        None => prompt_line("Enter slug: ")?.trim().to_owned(),
    };
    if slug.is_empty() {
        return Err(CliError::Usage("a slug is required to sign in, for example `openorch`".into()));
    }
    Ok(slug)
}

/// A password, read without echo.
pub fn password(given: Option<String>, prompt: &str) -> Result<String, CliError> {
    let password = match given {
        Some(password) => {
            warn(
                "passwords in arguments are visible to other users and stay in shell history; omit it to be \
                 prompted",
            );
            password
        }
        None if io::stdin().is_terminal() => read_hidden(prompt)?,
        None => read_line()?,
    };
    if password.is_empty() {
        return Err(CliError::Usage(
            "a password is required; type it at the prompt, or pipe it to standard input".into(),
        ));
    }
    Ok(password)
}

/// Reads a password from the terminal. Ctrl-D counts as an empty one.
fn read_hidden(prompt: &str) -> Result<String, CliError> {
    match rpassword::prompt_password(prompt) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(String::new()),
        typed => Ok(typed?),
    }
}

/// A password to be set: on a terminal it is typed twice.
pub fn new_password(given: Option<String>, prompt: &str) -> Result<String, CliError> {
    let asks = given.is_none() && io::stdin().is_terminal();
    let password = password(given, prompt)?;
    if asks && read_hidden("Repeat new password: ")? != password {
        return Err(CliError::Usage("the passwords do not match; nothing was changed".into()));
    }
    Ok(password)
}

/// Confirms an action. Without a terminal there is no prompt, so a script has to pass `-y`.
pub fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "cannot prompt for confirmation without a terminal; pass `-y` to confirm. Nothing was done".into(),
        ));
    }
    match prompt_line(&format!("{question} [y/N] "))?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Other("cancelled (`-y` skips this question)".into())),
    }
}

fn prompt_line(prompt: &str) -> Result<String, CliError> {
    if io::stdin().is_terminal() {
        // Standard output may be redirected, and the prompt with it.
        let _ = write!(io::stderr(), "{prompt}");
    }
    read_line()
}

fn read_line() -> Result<String, CliError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    // Only the line ending is cut: a password may begin and end with spaces.
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
