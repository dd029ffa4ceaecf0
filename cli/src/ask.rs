//! Questions to the person at the keyboard. They are asked before anything is sent: from the first call on Ctrl-C is
//! ours to handle, and would not end a question. Without a terminal the answers are lines of standard input.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::{Failure, warn};

/// The slug of an account.
pub fn slug(given: Option<String>) -> Result<String, Failure> {
    let slug = match given {
        Some(slug) => slug,
        None => line("Enter slug: ")?.trim().to_owned(),
    };
    if slug.is_empty() {
        return Err(Failure::Usage("a slug is needed to sign in, for example `openorch`".into()));
    }
    Ok(slug)
}

/// A password, without echo.
pub fn password(given: Option<String>, prompt: &str) -> Result<String, Failure> {
    let password = match given {
        Some(password) => {
            warn(
                "a password given as an argument is seen by other users of this machine and kept by the shell; leave \
                 it out to be asked for it",
            );
            password
        }
        None if io::stdin().is_terminal() => typed(prompt)?,
        None => read_line()?,
    };
    if password.is_empty() {
        return Err(Failure::Usage("a password is needed; type it when asked, or pipe it in".into()));
    }
    Ok(password)
}

/// Ctrl-D is an answer too: an empty one.
fn typed(prompt: &str) -> Result<String, Failure> {
    match rpassword::prompt_password(prompt) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(String::new()),
        typed => Ok(typed?),
    }
}

/// A password that does not exist yet: a person types it twice.
pub fn new_password(given: Option<String>, prompt: &str) -> Result<String, Failure> {
    let asks = given.is_none() && io::stdin().is_terminal();
    let password = password(given, prompt)?;
    if asks && typed("The same again: ")? != password {
        return Err(Failure::Usage("the two passwords differ; nothing was done".into()));
    }
    Ok(password)
}

/// Whether to go on. Without a terminal nobody can be asked, so a script has to say `-y`.
pub fn agreed(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "there is no terminal to confirm this on; give `-y` to do it. Nothing was done".into(),
        ));
    }
    match line(&format!("{question} [y/N] "))?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Other("nothing was done; answer `y`, or give `-y` not to be asked".into())),
    }
}

fn line(prompt: &str) -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        // Not on standard output: that may be captured, and the prompt with it.
        let _ = write!(io::stderr(), "{prompt}");
    }
    read_line()
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    // The line's end alone: a password may begin and end with spaces.
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
