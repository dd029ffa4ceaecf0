//! Authentication: sign in and out, register, switch users, `whoami`, `token`, change the password. Only `token` prints
//! a token.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    process,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use openorch_sdk::api::{
    Body, Json,
    user::{
        CHANGE_PASSWORD, ChangePasswordRequest, LOGIN, LoginRequest, READ_USER_BY_TOKEN, REGISTER, REVOKE_TOKENS,
        RegisterRequest, RevokeTokensRequest,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    args::Format,
    config::Environment,
    context::{Context, Server, Source, same_url},
    error::{CliError, UNEXPECTED_RESPONSE, printable, warn},
    print::{self, Cell, Column, TableLayout},
    prompt,
};

pub async fn login(
    context: &Context,
    slug: Option<String>,
    password: Option<String>,
    app: Option<String>,
) -> Result<String, CliError> {
    let slug = prompt::slug(slug.or_else(|| context.common.user.clone()))?;
    let password = prompt::password(password, "Enter password: ")?;
    let server = context.anonymous()?;
    let input = LoginRequest {
        slug: Some(slug.clone()),
        password: Some(password),
        device: Some(prepare_session(context)?),
        app_host: app.unwrap_or_default(),
        ..LoginRequest::default()
    };
    let Json(answer) = context.await_answer(&server, None, server.client.call(LOGIN, Body(input))).await?;
    store_token(context, &slug, answer.token.token, "you are signed in on the server")
}

pub async fn register(
    context: &Context,
    slug: Option<String>,
    password: Option<String>,
    name: Option<String>,
    invitation: Option<String>,
    app: Option<String>,
) -> Result<String, CliError> {
    let slug = prompt::slug(slug.or_else(|| context.common.user.clone()))?;
    let password = prompt::new_password(password, "Choose a password: ")?;
    let server = context.anonymous()?;
    let input = RegisterRequest {
        name: Some(name.unwrap_or_else(|| slug.clone())),
        slug: slug.clone(),
        password,
        device: Some(prepare_session(context)?),
        invitation,
        app_host: app.unwrap_or_default(),
        ..RegisterRequest::default()
    };
    let call = server.client.call(REGISTER, Body(input));
    let Json(answer) = context.await_answer(&server, Some(REGISTER.row.id), call).await?;
    store_token(context, &slug, answer.token.token, "the account was created")
}

/// Revokes the session on the server, then forgets its token here. An ended session is forgotten too.
pub async fn logout(context: &mut Context, slug: Option<String>, all: bool, forget: bool) -> Result<String, CliError> {
    if slug.is_some() {
        context.common.user = slug;
    }
    let token = context.token()?;
    if !forget {
        let connection = context.connection()?;
        let input = RevokeTokensRequest { all_tokens: all.then_some(true), ..RevokeTokensRequest::default() };
        let call = connection.client.call(REVOKE_TOKENS, Body(input));
        match context.await_answer(&connection, Some(REVOKE_TOKENS.row.id), call).await {
            Ok(_) => {}
            Err(refusal) if refusal.status() == Some(401) => {}
            Err(failure) => {
                return Err(failure.with_hint(
                    "the token is still stored; `oo logout --forget` removes it without calling the server",
                ));
            }
        }
    }
    if let Source::Variable = token.source {
        warn("the token came from OPENORCH_TOKEN, which is still set");
        return Ok(String::new());
    }
    let server = context.server()?;
    context.file.change(|config| {
        if let Some(environment) = config.environments.get_mut(&server.name) {
            // By token instead of name: another `oo` may have signed in meanwhile.
            environment.users.retain(|_, user| user.token != token.text);
            if !environment.users.contains_key(&environment.selected_user) {
                environment.selected_user.clear();
            }
        }
        Ok(String::new())
    })
}

/// Selects a user whose token is stored; without a slug, lists them.
pub fn switch(context: &Context, slug: Option<String>) -> Result<String, CliError> {
    let server = context.server()?;
    let Some(slug) = slug else { return stored_users(context, &server.name) };
    let unknown = || {
        let login = context.oo_command("login");
        CliError::NotSignedIn(format!(
            "`{slug}` is not signed in to `{}` on this machine; run `{login} {slug}`",
            server.name
        ))
    };
    if !context.config()?.environments.get(&server.name).is_some_and(|known| known.users.contains_key(&slug)) {
        return Err(unknown());
    }
    context.file.change(|config| {
        let environment = config.environments.get_mut(&server.name).ok_or_else(unknown)?;
        environment.selected_user.clone_from(&slug);
        Ok(String::new())
    })?;
    warn_about_variable(context);
    Ok(String::new())
}

fn stored_users(context: &Context, server: &str) -> Result<String, CliError> {
    #[derive(Serialize)]
    struct Shown {
        slug: String,
        selected: bool,
    }
    const TABLE: TableLayout = TableLayout {
        columns: &[Column::new("SLUG", Cell::Text(&["slug"])), Column::new("SELECTED", Cell::Star("selected"))],
        name: "slug",
    };
    let config = context.config()?;
    let shown = config.environments.get(server).into_iter().flat_map(|environment| {
        let show = |slug: &String| Shown { slug: slug.clone(), selected: *slug == environment.selected_user };
        environment.users.keys().map(show).collect::<Vec<_>>()
    });
    print::list(context.format(), &TABLE, &print::to_items(&shown.collect::<Vec<_>>())?)
}

pub async fn whoami(context: &Context) -> Result<String, CliError> {
    #[derive(Serialize)]
    struct Shown {
        slug: String,
        id: String,
        roles: Vec<String>,
    }
    const TABLE: TableLayout = TableLayout {
        columns: &[
            Column::new("SLUG", Cell::Text(&["slug"])),
            Column::new("USER ID", Cell::Text(&["id"])),
            Column::new("ROLES", Cell::Text(&["roles"])),
        ],
        name: "slug",
    };
    let roles = role_claims(&context.token()?.text);
    let connection = context.connection()?;
    let Json(answer) = context.await_answer(&connection, None, connection.client.call(READ_USER_BY_TOKEN, ())).await?;
    if answer.user.id.is_empty() {
        return Err(CliError::Other(UNEXPECTED_RESPONSE.into()));
    }
    let shown = print::to_item(&Shown { slug: answer.user.slug, id: answer.user.id, roles })?;
    print::item(context.common.output.unwrap_or(Format::Yaml), &TABLE, &shown)
}

pub fn token(context: &Context) -> Result<String, CliError> {
    // A malicious server may put control characters into a token.
    Ok(printable(&context.token()?.text))
}

/// Changes the user's own password. The current session stays; all others of the account end.
pub async fn password(context: &Context) -> Result<String, CliError> {
    let connection = context.connection()?;
    let current = prompt::password(None, "Current password: ")?;
    let new = prompt::new_password(None, "New password: ")?;
    let input =
        ChangePasswordRequest { current_password: current, new_password: new, ..ChangePasswordRequest::default() };
    let call = connection.client.call(CHANGE_PASSWORD, Body(input));
    context.await_answer(&connection, Some(CHANGE_PASSWORD.row.id), call).await?;
    Ok(String::new())
}

/// Checks that the settings are writable before a session is created, so that its token can be stored. Returns the
/// device name of the session, which differs between two home directories on one machine.
fn prepare_session(context: &Context) -> Result<String, CliError> {
    let server = context.server()?;
    context.file.change(|config| {
        if let Some(environment) = config.environments.get(&server.name) {
            check_same_url(environment, &server)?;
        }
        if config.device.is_empty() {
            // Not a secret, only a distinguishing number: the randomness of the standard library's hashers suffices.
            config.device = format!("{:06x}", RandomState::new().build_hasher().finish() & 0xff_ffff);
        }
        Ok(format!("{}:{}", device(), config.device))
    })
}

fn check_same_url(environment: &Environment, server: &Server) -> Result<(), CliError> {
    if same_url(&environment.url, &server.url) {
        return Ok(());
    }
    Err(CliError::Other(format!(
        "the environment `{}` has a different URL than {}; add an environment for it with `oo env add`",
        server.name, server.url
    )))
}

/// Maximum bytes of a token: a longer one would exceed the limit on request headers.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Stores the token. `done` says what the server has already done, for the error message.
fn store_token(context: &Context, slug: &str, token: String, done: &str) -> Result<String, CliError> {
    if token.is_empty() {
        return Err(CliError::Other("the server returned no token; is it an OpenOrch daemon?".into()));
    }
    if token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CliError::Other(format!(
            "the server returned an invalid token (more than {MAX_TOKEN_BYTES} bytes, or characters that no \
             token contains); it was not stored; is it an OpenOrch daemon?"
        )));
    }
    let keep = |server: Server| {
        context.file.change(|config| {
            // The server of `-e`, of `OPENORCH_URL` or the default one becomes an environment with its first sign-in.
            let is_first = config.environments.is_empty();
            let new = || Environment::new(&server.name, &server.url);
            let environment = config.environments.entry(server.name.clone()).or_insert_with(new);
            check_same_url(environment, &server)?;
            environment.remember(slug, token);
            if is_first {
                config.selected_environment = server.name.clone();
            }
            Ok(())
        })
    };
    context.server().and_then(keep).map_err(|failure| {
        let login = context.oo_command("login");
        failure.with_hint(format!("{done}, but its token could not be stored; `{login} {slug}` gets another one"))
    })?;
    warn_about_variable(context);
    Ok(String::new())
}

/// Warns that the variable's token takes precedence over the selected user.
fn warn_about_variable(context: &Context) {
    if context.has_token_variable() {
        warn("OPENORCH_TOKEN is set and takes precedence; unset it, or choose a user with `-u`");
    }
}

/// Prefix of this machine's session names, distinct from that of the session that programs share: `cli@host`.
fn device() -> String {
    let from_file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_file.or_else(|| {
        // Windows, macOS and the BSDs have this program; the standard library has no call for it.
        let output = process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or("unknown-host");
    format!("cli@{name}")
}

/// The roles in the token's `ori` claim. The signature is not verified: the server has just accepted the token.
fn role_claims(token: &str) -> Vec<String> {
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
        assert_eq!(role_claims(&format!("e30.{payload}.sig")), ["user-svc:admin"]);
        for odd in ["", "a", "a.b.c", "..", "e30.e30.x"] {
            assert!(role_claims(odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn the_device_names_this_machine() {
        assert!(device().strip_prefix("cli@").is_some_and(|host| !host.is_empty() && !host.contains('\n')));
    }
}
