//! `oo call`: any operation of the contract by its id, so that a new operation needs no new command.

use std::io::Read;

use clap::ValueEnum;
use openorch_sdk::api::{self, Access, Row};
use serde_norway::Value;

use crate::{args::Format, context::Context, failure::Failure, input::Inputs, print};

/// Calls the operation that the first word names with what the others give it.
pub async fn run(context: Context, words: Vec<String>) -> Result<String, Failure> {
    let mut arguments = words.into_iter();
    let id = arguments.next().unwrap_or_default();
    let row = api::operations().find(|row| row.id == id).ok_or_else(|| unknown(&id))?;
    let (context, arguments) = options(context, row, arguments)?;
    let inputs = Inputs::of(row);
    if arguments.help {
        return Ok(describe(row, &inputs));
    }
    if context.common.output == Some(Format::Table) {
        // Before the call: it may change things, and the answer would not be shown.
        return Err(Failure::Usage("answers of operations have no table form; use `-o json` or `-o yaml`".into()));
    }
    let body = match arguments.file {
        Some(file) => Some(read_body(&file)?),
        None => None,
    };
    let parts = inputs.fill(&arguments.values, body)?;
    let client = match row.access {
        Access::Public => context.client_if_signed_in()?,
        _ => context.client()?,
    };
    let answer = client.call_row(row, &parts).await?;
    // As YAML's value, which keeps the order of keys that the server chose.
    match serde_json::from_slice::<Value>(&answer.bytes) {
        Ok(value) => print::value(context.common.output.unwrap_or(Format::Json), &value),
        Err(_) => Ok(String::from_utf8_lossy(&answer.bytes).into_owned()),
    }
}

struct Arguments {
    help: bool,
    file: Option<String>,
    values: Vec<(String, String)>,
}

/// Takes the arguments apart. The short options of `oo` are understood here too; long ones would hide keys.
fn options(
    mut context: Context,
    row: &Row,
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Context, Arguments), Failure> {
    let mut taken = Arguments { help: false, file: None, values: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| Failure::Usage(format!("`{argument}` needs a value after it")));
        match argument.as_str() {
            "--help" | "-h" => taken.help = true,
            "-f" => taken.file = Some(value()?),
            "-e" => context.common.env = Some(value()?),
            "-u" => context.common.user = Some(value()?),
            "-o" => {
                let format = Format::from_str(&value()?, false);
                context.common.output = Some(format.map_err(|_| Failure::Usage("`-o` is table, json or yaml".into()))?);
            }
            _ => match argument.strip_prefix("--").and_then(|pair| pair.split_once('=')) {
                Some((key, value)) if !key.is_empty() => taken.values.push((key.to_owned(), value.to_owned())),
                _ => {
                    return Err(Failure::Usage(format!(
                        "`{argument}` is not understood; write `--key=value`, and see `oo call {} --help`",
                        row.id
                    )));
                }
            },
        }
    }
    Ok((context, taken))
}

fn read_body(file: &str) -> Result<serde_json::Value, Failure> {
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        path => std::fs::read_to_string(path).map(|content| text = content),
    };
    read.map_err(|error| Failure::Usage(format!("cannot read the body from `{file}`: {error}")))?;
    // What is good JSON is taken as such: YAML reads some of its numbers differently.
    serde_json::from_str(&text)
        .or_else(|_| serde_norway::from_str(&text))
        .map_err(|error| Failure::Usage(format!("`{file}` is neither JSON nor YAML: {error}")))
}

/// All operations there are.
pub fn list(context: &Context) -> Result<String, Failure> {
    #[derive(serde::Serialize)]
    struct Shown {
        id: &'static str,
        method: &'static str,
        path: &'static str,
        summary: &'static str,
    }
    let shown: Vec<Shown> = api::operations()
        .map(|row| Shown { id: row.id, method: row.method.as_str(), path: row.path, summary: row.summary() })
        .collect();
    print::list(context.format(), ["OPERATION", "METHOD", "PATH", "SUMMARY"], &shown, |one| {
        [one.id, one.method, one.path, one.summary].map(str::to_owned)
    })
}

fn describe(row: &Row, inputs: &Inputs) -> String {
    let doc: Vec<_> = row.doc.lines().map(str::trim).collect();
    let mut text = format!("{}\n\n{} {}\n", doc.join("\n").trim(), row.method.as_str(), row.path);
    for (key, kind, place) in inputs.known() {
        text.push_str(&format!("\n  --{key}=<{kind}>   {place}"));
    }
    text
}

fn unknown(id: &str) -> Failure {
    let wanted = id.to_lowercase();
    let near: Vec<_> = api::operations()
        .map(|row| row.id)
        .filter(|known| {
            let known = known.to_lowercase();
            known.contains(&wanted) || wanted.contains(&known)
        })
        .collect();
    let way_out =
        if near.is_empty() { "`oo call` lists them".into() } else { format!("did you mean {}?", near.join(", ")) };
    Failure::Usage(format!("there is no operation `{id}`; {way_out}"))
}
