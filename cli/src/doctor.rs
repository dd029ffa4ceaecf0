//! `oo doctor`: checks everything from the settings file to the token, and prints each result with its remedy.

use std::time::{Duration, Instant};

use jiff::fmt::rfc2822;
use openorch_sdk::{
    Client, ClientFactory, Response,
    api::user::READ_USER_BY_TOKEN,
    http::{Method, header},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::Format,
    context::{Connection, Context, Server},
    error::CliError,
    print::{self, Cell, Column, Output, TableLayout},
};

/// Timeout of each request unless `--timeout` sets another.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clock skew in seconds: above the first limit it is reported, above the second it is a failure, because tokens expire
/// too early or too late.
const CLOCK_SKEW_LIMITS: (i64, i64) = (5, 60);

#[derive(Serialize)]
struct Check {
    check: &'static str,
    result: &'static str,
    details: String,
    /// The exit code if this is the first failure.
    #[serde(skip)]
    code: u8,
}

impl Check {
    fn ok(check: &'static str, details: impl Into<String>) -> Check {
        Check { check, result: "ok", details: details.into(), code: 0 }
    }
    fn warn(check: &'static str, details: impl Into<String>) -> Check {
        Check { check, result: "warn", details: details.into(), code: 0 }
    }
    fn fail(check: &'static str, failure: &CliError) -> Check {
        Check { check, result: "FAIL", details: failure.to_string().replace('\n', "; "), code: failure.code() }
    }
}

const TABLE: TableLayout = TableLayout {
    columns: &[
        Column::new("CHECK", Cell::Text(&["check"])),
        Column::new("RESULT", Cell::Status("result")),
        Column::new("DETAILS", Cell::Text(&["details"])),
    ],
    name: "check",
};

/// The report and the exit code.
pub async fn run(context: &mut Context) -> Result<(Output, u8), CliError> {
    context.common.timeout.get_or_insert(DEFAULT_TIMEOUT);
    let mut checks = vec![settings(context)];
    match context.server() {
        // With unreadable settings there is nothing more to check.
        Err(_) if checks[0].code != 0 => {}
        Err(failure) => checks.push(Check::fail("environment", &failure)),
        Ok(server) => {
            checks.push(Check::ok("environment", format!("`{}`, {}", server.name, server.url)));
            daemon(context, &server, &mut checks).await;
        }
    }
    let code = checks.iter().map(|check| check.code).find(|code| *code != 0).unwrap_or_default();
    let format = context.common.output.unwrap_or(Format::Table);
    Ok((print::list(format, &TABLE, &print::to_items(&checks)?)?.into(), code))
}

fn settings(context: &Context) -> Check {
    let path = match context.file.path() {
        Ok(path) => path.display().to_string(),
        Err(failure) => return Check::warn("settings", failure.to_string()),
    };
    match context.file.load() {
        Err(failure) => Check::fail("settings", &failure),
        Ok(config) if config.environments.is_empty() => Check::ok("settings", format!("`{path}` is empty or missing")),
        Ok(_) if is_open_to_others(&path) => {
            Check::warn("settings", format!("`{path}` is readable by other users; `chmod 600` fixes that"))
        }
        Ok(config) => {
            let names: Vec<_> = config.environments.into_keys().collect();
            Check::ok("settings", format!("`{path}` lists {}", names.join(", ")))
        }
    }
}

#[cfg(unix)]
fn is_open_to_others(path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &str) -> bool {
    false
}

/// Checks the daemon. Each check builds on the previous one.
async fn daemon(context: &Context, server: &Server, checks: &mut Vec<Check>) {
    let client = match ClientFactory::new(&server.url) {
        Ok(factory) => factory.client(),
        Err(error) => return checks.push(Check::fail("daemon", &error.into())),
    };
    let started = Instant::now();
    let welcome = match get(context, &client, "/").await {
        Ok(answer) => answer,
        Err(failure) => return checks.push(Check::fail("daemon", &failure)),
    };
    let took = started.elapsed().as_millis();
    let body: Value = serde_json::from_slice(&welcome.bytes).unwrap_or_default();
    let (name, version) = (body["name"].as_str(), body["version"].as_str());
    let (Some("OpenOrch"), Some(version)) = (name, version) else {
        let text = format!(
            "another program answers at {} ({}); set the right address with `oo env add`",
            server.url, welcome.status
        );
        return checks.push(Check::fail("daemon", &CliError::Other(text)));
    };
    checks.push(Check::ok("daemon", format!("responded in {took} ms")));
    checks.push(versions(version));
    checks.push(match get(context, &client, "/ready").await {
        Ok(answer) if answer.status.is_success() => Check::ok("store", "ready"),
        Ok(answer) => {
            let why = answer.error_message().unwrap_or_else(|| answer.status.to_string());
            Check::fail("store", &CliError::Other(format!("the daemon is not ready: {why}; see its log")))
        }
        Err(failure) => Check::fail("store", &failure),
    });
    checks.push(clock(&welcome));
    checks.push(token(context).await);
}

async fn get(context: &Context, client: &Client, path: &str) -> Result<Response, CliError> {
    let connection = Connection { client: client.clone(), caller: None };
    context
        .await_answer(&connection, None, client.request(Method::GET, path, None))
        .await
        .map_err(CliError::without_hint)
}

fn versions(daemon: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let details = format!("oo {own}, daemon {daemon}");
    if own == daemon {
        Check::ok("versions", details)
    } else {
        Check::warn("versions", format!("{details}: they differ, so each may have operations that the other lacks"))
    }
}

fn clock(answer: &Response) -> Check {
    let date = answer.headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| rfc2822::parse(date).ok()) else {
        return Check::warn("clock", "the daemon's response has no Date header");
    };
    let apart = (theirs.timestamp().as_second() - print::now().as_second()).abs();
    let told = format!("{apart} s of clock skew");
    match apart {
        _ if apart <= CLOCK_SKEW_LIMITS.0 => Check::ok("clock", told),
        _ if apart <= CLOCK_SKEW_LIMITS.1 => {
            Check::warn("clock", format!("{told}; synchronize both machines with NTP"))
        }
        _ => Check::fail(
            "clock",
            &CliError::Other(format!("{told}: tokens expire too early or too late; synchronize both with NTP")),
        ),
    }
}

async fn token(context: &Context) -> Check {
    match context.token_if_any() {
        Err(failure) => Check::fail("token", &failure),
        Ok(None) => Check::warn("token", format!("not signed in; run `{}`", context.oo_command("login"))),
        Ok(Some(_)) => match account_slug(context).await {
            Ok(slug) => Check::ok("token", format!("calls as `{slug}`")),
            Err(failure) => Check::fail("token", &failure),
        },
    }
}

async fn account_slug(context: &Context) -> Result<String, CliError> {
    let connection = context.connection()?;
    let call = connection.client.call(READ_USER_BY_TOKEN, ());
    let user = context.await_answer(&connection, None, call).await?.0.user;
    if user.id.is_empty() {
        return Err(CliError::Other("the daemon does not return the account of this token".into()));
    }
    Ok(user.slug)
}
