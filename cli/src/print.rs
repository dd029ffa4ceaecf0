//! Formats answers: tables for people; JSON, YAML and names for programs.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Serialize;
use serde_norway::Value;
use unicode_width::UnicodeWidthStr;

use crate::{
    args::Format,
    error::{CliError, printable, printable_lines},
    json,
};

/// The output of a command.
pub enum Output {
    Text(String),
    /// Everything is already printed.
    Printed,
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output::Text(text)
    }
}

/// An item to print: its JSON as received, which preserves the digits of numbers, and its parsed value.
#[derive(Debug)]
pub struct Item {
    json: String,
    pub value: Value,
}

impl Item {
    /// `None` for text that is not JSON, or is ambiguous.
    pub fn read(json: &str) -> Option<Item> {
        // YAML's value type keeps the order of keys.
        Some(Item { value: serde_json::from_str(json).ok()?, json: json.to_owned() })
    }

    /// A field as text.
    pub fn text_at(&self, name: &str) -> String {
        text_at(&self.value, name)
    }
}

/// The answer to a call in the requested format, if it is JSON; other text as received, without terminal control
/// characters.
pub fn answer(format: Option<Format>, json: &str) -> Result<String, CliError> {
    if !json::is_json(json) {
        return Ok(printable_lines(json));
    }
    match (format.unwrap_or(Format::Json), Item::read(json)) {
        // Ambiguous JSON (a duplicate key) is printed as received.
        (Format::Yaml, Some(thing)) => as_yaml(json, &thing.value),
        _ => Ok(json::indent(json)),
    }
}

/// Rejects a format that [`answer`] does not support. Checked before the call, which may have effects and whose answer
/// could not be printed.
pub fn check_answer_format(format: Option<Format>) -> Result<(), CliError> {
    match format {
        None | Some(Format::Json | Format::Yaml) => Ok(()),
        Some(_) => Err(CliError::Usage(
            "responses of operations cannot be printed as a table; use `-o json` or `-o yaml`".into(),
        )),
    }
}

/// A column of a table and the source of its cells.
pub struct Column {
    pub header: &'static str,
    pub cell: Cell,
    /// Shown with `-o wide` only.
    pub wide: bool,
}

/// A cell computed from an item. Nested fields are written with dots, `image.name`.
#[derive(Clone, Copy)]
pub enum Cell {
    /// The first non-empty field; list elements are joined with a comma and a space.
    Text(&'static [&'static str]),
    /// A status, coloured by its severity.
    Status(&'static str),
    /// Time since a timestamp, `8s ago`.
    Ago(&'static str),
    /// Time until a timestamp, `6d23h`.
    Until(&'static str),
    /// A percentage, `12.5%`.
    Percent(&'static str),
    /// A star if the field is true.
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

/// How items are printed as a table: their columns, and the field that identifies one.
pub struct TableLayout<'a> {
    pub columns: &'a [Column],
    pub name: &'static str,
}

/// A list in the requested format.
pub fn list(format: Format, kind: &TableLayout, things: &[Item]) -> Result<String, CliError> {
    match format {
        Format::Table | Format::Wide => {
            let columns: Vec<&Column> =
                kind.columns.iter().filter(|column| format == Format::Wide || !column.wide).collect();
            let header = columns.iter().map(|column| column.header).collect();
            let row = |thing: &Item| columns.iter().map(|column| cell(column.cell, &thing.value)).collect();
            Ok(table(header, things.iter().map(row).collect()))
        }
        Format::Name => {
            let names = things.iter().map(|thing| printable(&thing.text_at(kind.name)));
            Ok(names.filter(|name| !name.is_empty()).map(|name| name + "\n").collect())
        }
        Format::Json => Ok(json::indent(&json_array(things))),
        Format::Yaml => {
            let values: Vec<_> = things.iter().map(|thing| &thing.value).collect();
            as_yaml(&json_array(things), &values)
        }
    }
}

/// The items as a JSON array.
pub fn json_array(things: &[Item]) -> String {
    format!("[{}]", things.iter().map(|thing| thing.json.as_str()).collect::<Vec<_>>().join(","))
}

/// One item in the requested format; as a table it is a list of one.
pub fn item(format: Format, kind: &TableLayout, thing: &Item) -> Result<String, CliError> {
    match format {
        Format::Json => Ok(json::indent(&thing.json)),
        Format::Yaml => as_yaml(&thing.json, &thing.value),
        _ => list(format, kind, std::slice::from_ref(thing)),
    }
}

/// JSON, given as text and as a value, as YAML.
fn as_yaml(json: &str, value: &impl Serialize) -> Result<String, CliError> {
    // YAML is a superset of JSON, and the JSON text keeps digits that the YAML writer would round.
    if json::changed_by_yaml(json).is_some() {
        return Ok(json::indent(json));
    }
    let yaml = serde_norway::to_string(value).map_err(|error| format_error(&error))?;
    // The YAML writer does not escape characters that change how other text is displayed.
    let is_plain = yaml.lines().all(|line| openorch_api::text::first_hidden(&line.replace('\t', " ")).is_none());
    Ok(if is_plain { yaml } else { json::indent(json) })
}

/// Converts local data to items for [`list`] and [`item`].
pub fn to_items<T: Serialize>(items: &[T]) -> Result<Vec<Item>, CliError> {
    items.iter().map(to_item).collect()
}

pub fn to_item<T: Serialize>(item: &T) -> Result<Item, CliError> {
    let json = serde_json::to_string(item).map_err(|error| format_error(&error))?;
    Item::read(&json).ok_or_else(|| format_error(&"it is not JSON"))
}

fn format_error(error: &dyn Display) -> CliError {
    CliError::Other(format!("cannot format the output: {error}"))
}

/// A cell's text and its colour on a terminal.
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
        // An unparsable time is printed as it is, an unset one as nothing.
        Cell::Ago(name) => plain(seconds(name).map_or_else(
            || printable(&raw_time(item, name)),
            |ahead| format!("{} ago", format_duration(ahead.saturating_neg())),
        )),
        Cell::Until(name) => plain(seconds(name).map_or_else(|| printable(&raw_time(item, name)), format_duration)),
        Cell::Percent(name) => {
            let percent = field_at(item, name).and_then(Value::as_f64);
            plain(percent.map(|percent| format!("{percent:.1}%")).unwrap_or_default())
        }
        Cell::Star(name) => plain(if field_at(item, name).and_then(Value::as_bool) == Some(true) { "*" } else { "" }),
    }
}

/// The field at a dotted path; an empty path is the whole item.
fn field_at<'a>(item: &'a Value, name: &str) -> Option<&'a Value> {
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
    field_at(item, name).map(text).unwrap_or_default()
}

const NEVER: &str = "0001-01-01T00:00:00Z";

fn raw_time(item: &Value, name: &str) -> String {
    let text = text_at(item, name);
    if text == NEVER { String::new() } else { text }
}

fn time_at(item: &Value, name: &str) -> Option<Timestamp> {
    raw_time(item, name).parse().ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line has no clock to inject; formatting of times is tested without it"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Formats a duration in seconds: `72` is `1m12s`. Negative values are shown as zero, because the clocks of two
/// machines differ.
pub fn format_duration(seconds: i64) -> String {
    let count = seconds.max(0);
    let (days, hours, minutes, seconds) = (count / 86_400, count / 3600, count / 60 % 60, count % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        // The documented `oo` does not use days; here they replace seconds once those no longer matter.
        (0..2, ..) => format!("{hours}h{minutes}m{seconds}s"),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Left-aligned columns separated by three spaces; the header is always printed.
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
        // Trailing empty cells are omitted, so that no line ends in spaces.
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

    const TABLE: TableLayout = TableLayout {
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
        list(format, &TABLE, &to_items(&items).unwrap()).unwrap()
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
        let thing = [Item::read(json).unwrap()];
        let indented = "{\n  \"n\": 12345678901234567890123,\n  \"m\": 1.50\n}";
        for format in [Format::Json, Format::Yaml] {
            assert_eq!(item(format, &TABLE, &thing[0]).unwrap(), indented);
            assert_eq!(answer(Some(format), json).unwrap(), indented);
            assert!(list(format, &TABLE, &thing).unwrap().contains("12345678901234567890123"));
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
            (said.as_str(), Item::read(&said).unwrap().text_at("a")),
            ("{\n  \"a\": \"x\\u202e\"\n}", "x\u{202e}".into())
        );
    }

    #[test]
    fn spans() {
        for (count, want) in
            [(-5, "0s"), (0, "0s"), (8, "8s"), (72, "1m12s"), (3600, "1h0m0s"), (90_061, "25h1m1s"), (604_800, "7d0h")]
        {
            assert_eq!(format_duration(count), want);
        }
    }
}
