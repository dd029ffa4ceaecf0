//! Answers as text: tables for people, JSON, YAML and bare names for programs.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Serialize;
use serde_norway::Value;
use unicode_width::UnicodeWidthStr;

use crate::{
    args::Format,
    failure::{Failure, printable, printable_lines},
    json,
};

/// What a command has to say.
pub enum Output {
    Text(String),
    /// Nothing that it has not said yet.
    Shown,
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output::Text(text)
    }
}

/// Something to be shown: its JSON as it came, which keeps the digits of its numbers, and what that says.
#[derive(Debug)]
pub struct Thing {
    json: String,
    pub value: Value,
}

impl Thing {
    /// `None` where that is no JSON, or none that has one meaning alone.
    pub fn read(json: &str) -> Option<Thing> {
        // As YAML's value, which keeps the order of keys that the server chose.
        Some(Thing { value: serde_json::from_str(json).ok()?, json: json.to_owned() })
    }

    /// What a field says, in words.
    pub fn text_at(&self, name: &str) -> String {
        text_at(&self.value, name)
    }
}

/// The answer to any call, if it is JSON, in the format asked for; any other text as it came, but for what steers a
/// terminal.
pub fn answer(format: Option<Format>, json: &str) -> Result<String, Failure> {
    if !json::is_json(json) {
        return Ok(printable_lines(json));
    }
    match (format.unwrap_or(Format::Json), Thing::read(json)) {
        // JSON that has no one meaning (a key given twice) is shown as it came.
        (Format::Yaml, Some(thing)) => as_yaml(json, &thing.value),
        _ => Ok(json::indented(json)),
    }
}

/// Refuses a format that [`answer`] does not have. Asked before the call: it may change things, and its answer would not
/// be shown.
pub fn check_answer_format(format: Option<Format>) -> Result<(), Failure> {
    match format {
        None | Some(Format::Json | Format::Yaml) => Ok(()),
        Some(_) => Err(Failure::Usage("answers of operations have no table form; use `-o json` or `-o yaml`".into())),
    }
}

/// A column of a table and where its cells come from.
pub struct Column {
    pub header: &'static str,
    pub cell: Cell,
    /// Shown with `-o wide` alone.
    pub wide: bool,
}

/// A cell made from the item of a row. Fields are named with dots, `image.name`.
#[derive(Clone, Copy)]
pub enum Cell {
    /// The first of the fields that says something; lists with a comma and a space between.
    Text(&'static [&'static str]),
    /// A status, coloured by how well it is.
    Status(&'static str),
    /// How long ago a time was, `8s ago`.
    Ago(&'static str),
    /// How long until a time, `6d23h`.
    Until(&'static str),
    /// A number of percent, `12.5%`.
    Percent(&'static str),
    /// A star where the field is true.
    Star(&'static str),
}

impl Column {
    pub const fn new(header: &'static str, cell: Cell) -> Column {
        Column { header, cell, wide: false }
    }

    pub const fn wide(header: &'static str, cell: Cell) -> Column {
        Column { header, cell, wide: true }
    }
}

/// Items of one kind: their columns, and the field that names one.
pub struct Kind<'a> {
    pub columns: &'a [Column],
    pub name: &'static str,
}

/// A list in the format asked for.
pub fn list(format: Format, kind: &Kind, things: &[Thing]) -> Result<String, Failure> {
    match format {
        Format::Table | Format::Wide => {
            let columns: Vec<&Column> =
                kind.columns.iter().filter(|column| format == Format::Wide || !column.wide).collect();
            let header = columns.iter().map(|column| column.header).collect();
            let row = |thing: &Thing| columns.iter().map(|column| cell(column.cell, &thing.value)).collect();
            Ok(table(header, things.iter().map(row).collect()))
        }
        Format::Name => {
            let names = things.iter().map(|thing| printable(&thing.text_at(kind.name)));
            Ok(names.filter(|name| !name.is_empty()).map(|name| name + "\n").collect())
        }
        Format::Json => Ok(json::indented(&json_of(things))),
        Format::Yaml => {
            let values: Vec<_> = things.iter().map(|thing| &thing.value).collect();
            as_yaml(&json_of(things), &values)
        }
    }
}

/// The things as one JSON list.
pub fn json_of(things: &[Thing]) -> String {
    format!("[{}]", things.iter().map(|thing| thing.json.as_str()).collect::<Vec<_>>().join(","))
}

/// One thing in the format asked for; as a table it is a list of one.
pub fn item(format: Format, kind: &Kind, thing: &Thing) -> Result<String, Failure> {
    match format {
        Format::Json => Ok(json::indented(&thing.json)),
        Format::Yaml => as_yaml(&thing.json, &thing.value),
        _ => list(format, kind, std::slice::from_ref(thing)),
    }
}

/// JSON, and what it says, as YAML.
fn as_yaml(json: &str, value: &impl Serialize) -> Result<String, Failure> {
    // YAML reads JSON too, and it keeps the digits of numbers that its own writer would round.
    if json::changed_by_yaml(json).is_some() {
        return Ok(json::indented(json));
    }
    let yaml = serde_norway::to_string(value).map_err(|error| cannot_be_shown(&error))?;
    // Its writer knows no escapes for characters that change how the rest looks.
    let is_plain = yaml.lines().all(|line| openorch_api::text::hidden(&line.replace('\t', " ")).is_none());
    Ok(if is_plain { yaml } else { json::indented(json) })
}

/// Things that are no answer of a server, for [`list`] and [`item`].
pub fn as_things<T: Serialize>(items: &[T]) -> Result<Vec<Thing>, Failure> {
    items.iter().map(as_thing).collect()
}

pub fn as_thing<T: Serialize>(item: &T) -> Result<Thing, Failure> {
    let json = serde_json::to_string(item).map_err(|error| cannot_be_shown(&error))?;
    Thing::read(&json).ok_or_else(|| cannot_be_shown(&"it is no JSON"))
}

fn cannot_be_shown(error: &dyn Display) -> Failure {
    Failure::Other(format!("this cannot be shown: {error}"))
}

/// A cell's text and the colour it has where colours are shown.
struct Shown {
    text: String,
    style: Style,
}

fn plain(text: impl Into<String>) -> Shown {
    Shown { text: text.into(), style: Style::new() }
}

fn cell(cell: Cell, item: &Value) -> Shown {
    let seconds = |name| time_at(item, name).map(|at: Timestamp| at.as_second() - now().as_second());
    match cell {
        Cell::Text(names) => {
            let texts = names.iter().map(|name| text_at(item, name));
            plain(printable(&texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()))
        }
        Cell::Status(name) => {
            let text = printable(&text_at(item, name));
            let colour = match text.as_str() {
                "Healthy" | "OK" | "ok" => Some(AnsiColor::Green),
                "Unreachable" | "Error" | "FAIL" | "ended" => Some(AnsiColor::Red),
                "Degraded" | "Deploying" | "warn" => Some(AnsiColor::Yellow),
                _ => None,
            };
            Shown { text, style: colour.map_or(Style::new(), |colour| colour.on_default()) }
        }
        // An unreadable time is shown as it is, one that is not there yet not at all.
        Cell::Ago(name) => {
            plain(seconds(name).map_or_else(
                || printable(&raw_time(item, name)),
                |ahead| format!("{} ago", span(ahead.saturating_neg())),
            ))
        }
        Cell::Until(name) => plain(seconds(name).map_or_else(|| printable(&raw_time(item, name)), span)),
        Cell::Percent(name) => {
            let percent = at(item, name).and_then(Value::as_f64);
            plain(percent.map(|percent| format!("{percent:.1}%")).unwrap_or_default())
        }
        Cell::Star(name) => plain(if at(item, name).and_then(Value::as_bool) == Some(true) { "*" } else { "" }),
    }
}

/// The field that a dotted name leads to; the whole where it names none.
fn at<'a>(item: &'a Value, name: &str) -> Option<&'a Value> {
    if name.is_empty() {
        return Some(item);
    }
    name.split('.').try_fold(item, |value, key| value.get(key))
}

fn text_at(item: &Value, name: &str) -> String {
    fn text(value: &Value) -> String {
        match value {
            Value::Null => String::new(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Sequence(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
            other => serde_json::to_string(other).unwrap_or_default(),
        }
    }
    at(item, name).map(text).unwrap_or_default()
}

const NEVER: &str = "0001-01-01T00:00:00Z";

fn raw_time(item: &Value, name: &str) -> String {
    let text = text_at(item, name);
    if text == NEVER { String::new() } else { text }
}

fn time_at(item: &Value, name: &str) -> Option<Timestamp> {
    raw_time(item, name).parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a command runs once, now; what it shows of time is tested without")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `72` is `1m12s`. Clocks of two machines differ: what lies ahead is now.
pub fn span(seconds: i64) -> String {
    let count = seconds.max(0);
    let (days, hours, minutes, seconds) = (count / 86_400, count / 3600, count / 60 % 60, count % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        // As the documented `oo` shows them, which knows no days; days come where seconds say nothing any more.
        (0..2, ..) => format!("{hours}h{minutes}m{seconds}s"),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Left-aligned columns with three spaces between, the header always there.
fn table(header: Vec<&str>, rows: Vec<Vec<Shown>>) -> String {
    let mut lines: Vec<Vec<Shown>> = vec![header.into_iter().map(plain).collect()];
    lines.extend(rows);
    let mut widths = vec![0; lines[0].len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.text.width());
        }
    }
    let mut text = String::new();
    for line in &lines {
        // What follows the last cell that says something is left out, so that no line ends in spaces.
        let filled = line.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        for (at, (cell, width)) in line.iter().zip(&widths).take(filled).enumerate() {
            let pad = if at + 1 == filled { 0 } else { width + 3 - cell.text.width() };
            let Shown { text: words, style } = cell;
            text.push_str(&format!("{style}{words}{style:#}{:pad$}", ""));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        serde_norway::from_str(text).unwrap()
    }

    const KIND: Kind = Kind {
        columns: &[
            Column::new("ID", Cell::Text(&["id"])),
            Column::new("STATUS", Cell::Status("status")),
            Column::new("PORTS", Cell::Text(&["image.ports", "ports"])),
            Column::wide("SEEN", Cell::Ago("seen")),
        ],
        name: "id",
    };

    fn shown(format: Format, items: &str) -> String {
        let Value::Sequence(items) = value(items) else { panic!("a list") };
        list(format, &KIND, &as_things(&items).unwrap()).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_three_spaces_apart() {
        let items = "[{id: ä, image: {ports: [80, 81]}}, {id: inst_1, status: x, seen: odd}, {}]";
        let table = "ID       STATUS   PORTS\nä                 80, 81\ninst_1   x\n\n";
        assert_eq!(shown(Format::Table, items), table);
        assert_eq!(shown(Format::Table, "[]"), "ID   STATUS   PORTS\n");
        assert_eq!(
            shown(Format::Wide, "[{id: a, seen: odd}]"),
            "ID   STATUS   PORTS   SEEN\na                     odd\n"
        );
        assert_eq!(shown(Format::Wide, "[{id: a, seen: '0001-01-01T00:00:00Z'}]").lines().nth(1), Some("a"));
        assert_eq!(shown(Format::Name, items), "ä\ninst_1\n");
        assert_eq!(shown(Format::Json, "[]"), "[]");
    }

    #[test]
    fn letters_that_are_two_columns_wide_shift_nothing() {
        let table = shown(Format::Table, "[{id: 東京, status: x}, {id: abcd, status: y}]");
        assert_eq!(table, "ID     STATUS   PORTS\n東京   x\nabcd   y\n");
    }

    #[test]
    fn numbers_keep_their_digits() {
        let json = r#"{"n":12345678901234567890123,"m":1.50}"#;
        let thing = [Thing::read(json).unwrap()];
        let indented = "{\n  \"n\": 12345678901234567890123,\n  \"m\": 1.50\n}";
        for format in [Format::Json, Format::Yaml] {
            assert_eq!(item(format, &KIND, &thing[0]).unwrap(), indented);
            assert_eq!(answer(Some(format), json).unwrap(), indented);
            assert!(list(format, &KIND, &thing).unwrap().contains("12345678901234567890123"));
        }
        assert_eq!(answer(Some(Format::Yaml), r#"{"n":9007199254740993}"#).unwrap(), "n: 9007199254740993\n");
        assert_eq!(answer(None, r#"{"a":1,"a":2}"#).unwrap(), "{\n  \"a\": 1,\n  \"a\": 2\n}");
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown_as_it_came() {
        for format in [None, Some(Format::Json), Some(Format::Yaml)] {
            for (text, shown) in [("]", "]"), ("<p>Hi ]\n\u{1b}]0;owned", "<p>Hi ]\n\u{fffd}]0;owned"), ("", "")] {
                assert_eq!(answer(format, text).unwrap(), shown);
            }
        }
    }

    #[test]
    fn a_status_has_its_colour() {
        assert!(shown(Format::Table, "[{id: a, status: Healthy}]").contains("a    \u{1b}[32mHealthy\u{1b}[0m\n"));
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let text = shown(Format::Table, r#"[{id: "x\e[2J\n", status: "\e[31m"}]"#);
        assert!(text.contains("x\u{fffd}[2J\u{fffd}") && !text.contains('\u{1b}'), "{text:?}");
        assert!(!shown(Format::Name, r#"[{id: "a\nb"}]"#).trim_end().contains('\n'));
        for format in [Format::Table, Format::Name, Format::Json, Format::Yaml] {
            let text = shown(format, "[{id: \"a\u{202e}b\", status: \"\u{2066}x\u{e0041}\"}]");
            assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{e0041}']), "{text:?}");
        }
        let json = "{\"a\":\"x\u{202e}\"}";
        let said = answer(Some(Format::Yaml), json).unwrap();
        assert_eq!(
            (said.as_str(), Thing::read(&said).unwrap().text_at("a")),
            ("{\n  \"a\": \"x\\u202e\"\n}", "x\u{202e}".into())
        );
    }

    #[test]
    fn spans() {
        for (count, want) in
            [(-5, "0s"), (0, "0s"), (8, "8s"), (72, "1m12s"), (3600, "1h0m0s"), (90_061, "25h1m1s"), (604_800, "7d0h")]
        {
            assert_eq!(span(count), want);
        }
    }
}
