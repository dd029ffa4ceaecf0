//! Answers as text: tables for people, JSON and YAML for programs.

use std::fmt::Display;

use jiff::Timestamp;
use openorch_sdk::api::Time;
use serde::Serialize;

use crate::{
    args::Format,
    failure::{Failure, printable},
};

/// A list, as a table with these columns or as the items themselves.
pub fn list<T: Serialize, const N: usize>(
    format: Format,
    header: [&str; N],
    items: &[T],
    row: impl Fn(&T) -> [String; N],
) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table(header, items.iter().map(row))),
        other => value(other, &items),
    }
}

/// Anything, as JSON or YAML.
pub fn value(format: Format, value: &impl Serialize) -> Result<String, Failure> {
    let failed = |error: &dyn Display| Failure::Other(format!("the answer cannot be shown: {error}"));
    match format {
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| failed(&error)),
        Format::Yaml => serde_norway::to_string(value).map_err(|error| failed(&error)),
        Format::Table => Err(Failure::Usage("a table is for lists; use `-o json` or `-o yaml` here".into())),
    }
}

/// Left-aligned columns with three spaces between, the header always there.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| printable(&cell))));
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
        text.push_str(padded.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// How long ago a heartbeat was, like `8s ago` or `1m12s ago`; empty if there was none yet.
pub fn ago(at: Time) -> String {
    if at.is_zero() { String::new() } else { format!("{} ago", seconds(now().as_second() - at.0.as_second())) }
}

#[expect(clippy::disallowed_methods, reason = "a command runs once, now; what it shows of time is tested without")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// `72` is `1m12s`. Clocks of two machines differ: what lies ahead is now.
fn seconds(count: i64) -> String {
    let count = count.max(0);
    let (hours, minutes, seconds) = (count / 3600, count / 60 % 60, count % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_three_spaces_apart() {
        let rows = [["inst_1".into(), "http://ä".into(), String::new()], ["i".into(), "u".into(), "x".into()]];
        let expected = "ID       URL        LAST\ninst_1   http://ä\ni        u          x\n";
        assert_eq!(table(["ID", "URL", "LAST"], rows), expected);
        assert_eq!(table(["ID", "URL"], []), "ID   URL\n");
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        assert_eq!(table(["A"], [["x\u{1b}[2J\n".into()]]), "A\nx\u{fffd}[2J\u{fffd}\n");
    }

    #[test]
    fn ages() {
        for (count, want) in [(-5, "0s"), (0, "0s"), (8, "8s"), (72, "1m12s"), (3600, "1h0m0s"), (90_061, "25h1m1s")] {
            assert_eq!(seconds(count), want);
        }
        assert_eq!(ago(Time::ZERO), "");
    }
}
