//! `oo monitor`: prints one line per request to the daemon and its services, when it ends.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use openorch_sdk::{
    StreamItem,
    api::{
        Query,
        platform::{MONITOR_REQUESTS, MonitorRequestsRequest, RequestSeen, StatusClass},
    },
};
use unicode_width::UnicodeWidthStr;

use crate::{
    args::Format,
    context::Context,
    error::{CliError, printable, warn},
    json,
    print::{self, Output},
};

/// Which requests are shown.
#[derive(Args)]
pub struct Filters {
    /// Only requests to this service, built in (such as user-svc) or behind the gateway
    #[arg(long, value_name = "SLUG")]
    service: Option<String>,
    /// Only requests of this account
    #[arg(long, value_name = "SLUG")]
    caller: Option<String>,
    /// Only requests whose status is in this class
    #[arg(long, value_name = "CLASS")]
    status: Option<Class>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Class {
    #[value(name = "1xx")]
    Informational,
    #[value(name = "2xx")]
    Success,
    #[value(name = "3xx")]
    Redirection,
    #[value(name = "4xx")]
    ClientError,
    #[value(name = "5xx")]
    ServerError,
}

impl From<Class> for StatusClass {
    fn from(class: Class) -> StatusClass {
        match class {
            Class::Informational => StatusClass::Informational,
            Class::Success => StatusClass::Success,
            Class::Redirection => StatusClass::Redirection,
            Class::ClientError => StatusClass::ClientError,
            Class::ServerError => StatusClass::ServerError,
        }
    }
}

pub async fn run(context: &Context, filters: Filters) -> Result<Output, CliError> {
    let Filters { service, caller, status } = filters;
    let query = Query(MonitorRequestsRequest { service, caller, status: status.map(StatusClass::from) });
    let connection = context.connection_for(MONITOR_REQUESTS.row)?;
    let opening = connection.client.events(MONITOR_REQUESTS, query);
    let mut requests = context.await_answer(&connection, None, opening).await?;
    context.progress.set_streaming();
    let format = context.format();
    if let Some(header) = header(format)
        && !print_line(&header)?
    {
        return Ok(Output::Printed);
    }
    loop {
        match requests.next().await.map_err(|error| context.with_hint(error, connection.caller.as_ref()))? {
            StreamItem::Event(seen) => {
                let has_reader = print_line(&line(format, &seen)?)?;
                if !has_reader {
                    return Ok(Output::Printed);
                }
            }
            StreamItem::Missed(count) => {
                warn(&format!("{count} requests were dropped: output is too slow"));
            }
            StreamItem::Interrupted { reason, pause } => warn(&format!(
                "lost the connection to {} ({reason}); reconnecting in {:.1} s",
                connection.client.url(),
                pause.as_secs_f64()
            )),
            StreamItem::Resumed => warn("reconnected; requests in between are not shown"),
            // A newer SDK may report other events.
            _ => {}
        }
    }
}

/// Columns with their minimum widths: rows are printed as they arrive, so widths cannot be computed.
const COLUMNS: &[(&str, usize)] =
    &[("AT", 27), ("STATUS", 6), ("DURATION", 10), ("SERVICE", 14), ("INSTANCE", 14), ("CALLER", 14), ("METHOD", 6)];
/// Additional columns of `-o wide`, before the last one.
const WIDE_COLUMNS: &[(&str, usize)] = &[("REQUEST ID", 36), ("OPERATION", 20)];
/// The last column, which is the longest.
const LAST_COLUMN: &str = "PATH";

fn header(format: Format) -> Option<String> {
    let columns = columns(format)?;
    Some(aligned(columns.map(|(name, width)| (name.to_owned(), width)), LAST_COLUMN))
}

/// `None` for formats without a table.
fn columns(format: Format) -> Option<impl Iterator<Item = (&'static str, usize)>> {
    let wide = match format {
        Format::Table => &[],
        Format::Wide => WIDE_COLUMNS,
        _ => return None,
    };
    Some(COLUMNS.iter().chain(wide).copied())
}

fn line(format: Format, seen: &RequestSeen) -> Result<String, CliError> {
    let data =
        || serde_json::to_string(seen).map_err(|error| CliError::Other(format!("cannot format the output: {error}")));
    match (format, columns(format)) {
        (_, Some(columns)) => {
            let cells = columns.map(|(name, width)| (printable(&cell(name, seen)), width));
            Ok(aligned(cells, &printable(&seen.path)))
        }
        (Format::Name, None) => Ok(printable(&seen.request_id)),
        (Format::Yaml, None) => Ok(format!("---\n{}", print::answer(Some(Format::Yaml), &data()?)?.trim_end())),
        _ => Ok(json::compact(&data()?)),
    }
}

fn cell(column: &str, seen: &RequestSeen) -> String {
    match column {
        "AT" => seen.at.to_string(),
        "STATUS" => seen.status.to_string(),
        "DURATION" => duration(seen.duration_ms),
        "SERVICE" => seen.service.clone(),
        "INSTANCE" => seen.instance_id.clone(),
        "CALLER" => seen.caller.clone(),
        "METHOD" => seen.method.clone(),
        "REQUEST ID" => seen.request_id.clone(),
        _ => seen.operation.clone(),
    }
}

/// `0.4ms`, `35ms`, `1.25s`, `3m20s`.
fn duration(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1}ms"),
        ..1000.0 => format!("{ms:.0}ms"),
        ..60_000.0 => format!("{:.2}s", ms / 1000.0),
        _ => print::format_duration((ms / 1000.0) as i64),
    }
}

/// Joins cells with three spaces.
fn aligned(cells: impl Iterator<Item = (String, usize)>, last: &str) -> String {
    let mut line = String::new();
    for (text, width) in cells {
        let pad = width.saturating_sub(text.width()) + 3;
        line.push_str(&format!("{text}{:pad$}", ""));
    }
    line + last
}

/// Writes and flushes a line. False if the reader has closed the pipe (`oo monitor | head`).
fn print_line(line: &str) -> Result<bool, CliError> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Other(format!("cannot write the output: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_below_their_header_and_cannot_steer_the_terminal() {
        let seen = RequestSeen {
            at: serde_json::from_str("\"2026-11-24T12:00:00.25Z\"").unwrap(),
            method: "GET".into(),
            path: "/a-svc/\u{1b}[2Jx".into(),
            service: "a-svc".into(),
            instance_id: "inst_1".into(),
            status: 200,
            duration_ms: 0.42,
            ..RequestSeen::default()
        };
        let shown = format!("{}\n{}", header(Format::Table).unwrap(), line(Format::Table, &seen).unwrap());
        let want = "AT                            STATUS   DURATION     SERVICE          INSTANCE         CALLER           METHOD   PATH\n\
                    2026-11-24T12:00:00.250000Z   200      0.4ms        a-svc            inst_1                            GET      /a-svc/\u{fffd}[2Jx";
        assert_eq!(shown, want);
        assert!(header(Format::Json).is_none());
        let json = line(Format::Json, &seen).unwrap();
        assert!(!json.contains(['\n', '\u{1b}']), "{json}");
        assert_eq!(serde_json::from_str::<RequestSeen>(&json).unwrap(), seen);
        assert!(line(Format::Wide, &seen).unwrap().ends_with("/a-svc/\u{fffd}[2Jx"));
        assert!(line(Format::Yaml, &seen).unwrap().starts_with("---\n"));
    }

    #[test]
    fn durations_have_the_digits_that_matter() {
        for (ms, want) in [(0.04, "0.0ms"), (9.96, "10.0ms"), (35.4, "35ms"), (1250.0, "1.25s"), (200_000.0, "3m20s")] {
            assert_eq!(duration(ms), want);
        }
    }
}
