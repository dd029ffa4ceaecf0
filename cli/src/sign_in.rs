//! Who is calling: sign in, register, `whoami`, `token`. Passwords are asked for without echo, or read from standard
//! input when that is no terminal; nothing but `token` ever prints a token.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use openorch_sdk::api::{
    Body, Json,
    user::{LOGIN, LoginRequest, READ_USER_BY_TOKEN, REGISTER, RegisterRequest},
};
use serde::{Deserialize, Serialize};

use crate::{args::Format, config::Environment, context::Context, failure::Failure, print};

pub async fn login(context: &Context, slug: Option<String>, password: Option<String>) -> Result<String, Failure> {
    let (slug, password) = ask(slug, password)?;
    let input = LoginRequest {
        slug: Some(slug.clone()),
        password: Some(password),
        device: Some(device()),
        ..LoginRequest::default()
    };
    let Json(answer) = context.anonymous()?.call(LOGIN, Body(input)).await?;
    remember(context, &slug, answer.token.token)
}

pub async fn register(
    context: &Context,
    slug: Option<String>,
    password: Option<String>,
    name: Option<String>,
    invitation: Option<String>,
) -> Result<String, Failure> {
    let (slug, password) = ask(slug, password)?;
    let input = RegisterRequest {
        name: Some(name.unwrap_or_else(|| slug.clone())),
        slug: Some(slug.clone()),
        password: Some(password),
        device: Some(device()),
        invitation,
        ..RegisterRequest::default()
    };
    let Json(answer) = context.anonymous()?.call(REGISTER, Body(input)).await?;
    remember(context, &slug, answer.token.token)
}

pub async fn whoami(context: &Context) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Shown {
        slug: String,
        id: String,
        roles: Vec<String>,
    }
    let token = context.token()?;
    let client = context.anonymous()?.with_token(&token)?;
    let Json(answer) = client.call(READ_USER_BY_TOKEN, ()).await?;
    let shown = Shown { slug: answer.user.slug, id: answer.user.id, roles: roles(&token) };
    print::value(context.common.output.unwrap_or(Format::Yaml), &shown)
}

pub fn token(context: &Context) -> Result<String, Failure> {
    context.token()
}

fn remember(context: &Context, slug: &str, token: String) -> Result<String, Failure> {
    if token.is_empty() {
        return Err(Failure::Other("the server signed in without giving a token; is it an OpenOrch daemon?".into()));
    }
    let server = context.server()?;
    context.file.change(|config| {
        // The server of `-e`, `OPENORCH_URL` or nothing at all becomes an environment with its first sign-in.
        let is_first = config.environments.is_empty();
        let new = || Environment::new(&server.name, &server.url);
        let environment = config.environments.entry(server.name.clone()).or_insert_with(new);
        if environment.url.trim_end_matches('/') != server.url.trim_end_matches('/') {
            return Err(Failure::Other(format!(
                "the environment `{}` has another URL than {}; add one for it with `oo env add`",
                server.name, server.url
            )));
        }
        environment.remember(slug, token);
        if is_first {
            config.selected_environment = server.name.clone();
        }
        Ok(String::new())
    })
}

fn ask(slug: Option<String>, password: Option<String>) -> Result<(String, String), Failure> {
    let slug = match slug {
        Some(slug) => slug,
        None => ask_line("Enter slug: ")?.trim().to_owned(),
    };
    if slug.is_empty() {
        return Err(Failure::Usage("a slug is needed to sign in, for example `openorch`".into()));
    }
    let password = match password {
        Some(password) => {
            let warning = "warning: a password given as an argument is seen by other users of this machine and kept \
                           by the shell; leave it out to be asked for it";
            let _ = writeln!(io::stderr(), "{warning}");
            password
        }
        None if io::stdin().is_terminal() => rpassword::prompt_password("Enter password: ")?,
        None => read_line()?,
    };
    if password.is_empty() {
        return Err(Failure::Usage("a password is needed to sign in; type it when asked, or pipe it in".into()));
    }
    Ok((slug, password))
}

fn ask_line(prompt: &str) -> Result<String, Failure> {
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

/// What the session is called, so that it is not the one that programs share: `cli@host`.
fn device() -> String {
    let from_file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_file.or_else(|| {
        // Windows, macOS and the BSDs have the program; the standard library has no call for it.
        let output = process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or("unknown-host");
    format!("cli@{name}")
}

/// The roles that the token claims (`ori`). Its signature is not checked: the server that just took it did.
fn roles(token: &str) -> Vec<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Claims {
        ori: Vec<String>,
    }
    let payload = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Claims = payload.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    claims.ori
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_from_the_tokens_claims() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"oui":"usr_1","ori":["user-svc:admin"]}"#);
        assert_eq!(roles(&format!("e30.{payload}.sig")), ["user-svc:admin"]);
        for odd in ["", "a", "a.b.c", "..", "e30.e30.x"] {
            assert!(roles(odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn the_device_names_this_machine() {
        assert!(device().strip_prefix("cli@").is_some_and(|host| !host.is_empty() && !host.contains('\n')));
    }
}
