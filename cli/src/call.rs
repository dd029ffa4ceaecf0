//! `oo call`: calls any operation of the contract by its id, so that a new operation needs no new command.

use clap::ValueEnum;
use openorch_sdk::{
    api::{self, Operation, RequestParts},
    http::Method,
    path_and_query,
};
use serde::Serialize;

use crate::{
    args::Format,
    context::Context,
    curl,
    error::CliError,
    flag::Flag,
    input::Inputs,
    manifest,
    print::{self, Cell, Column, Output, TableLayout},
    raw,
};

/// Calls the operation that the first word names, with the remaining words as input.
pub async fn run(
    context: &mut Context,
    words: Vec<String>,
    file: Option<String>,
    curl: bool,
) -> Result<Output, CliError> {
    let mut words = words.into_iter();
    let Some(id) = words.next() else { return list(context).map(Output::Text) };
    let row = api::operations().find(|row| row.id == id).ok_or_else(|| unknown_operation(&id))?;
    let given = parse_arguments(context, row, words)?;
    let inputs = Inputs::of(row);
    if given.help {
        return Ok(describe(row, &inputs).into());
    }
    print::check_answer_format(context.common.output)?;
    let body = given.file.or(file).map(|file| manifest::read_one(&file)).transpose()?;
    let parts = inputs.fill(given.flags, body)?;
    if curl || given.curl {
        return as_curl(context, row, &parts).map(Output::Text);
    }
    if row.stream().is_some() {
        return raw::call_streamed(context, row, &parts).await;
    }
    let answer = context.send(&context.connection_for(row)?, row, &parts).await?;
    print::answer(context.common.output, &String::from_utf8_lossy(&answer.bytes)).map(Output::Text)
}

/// The call as a curl command line.
pub fn as_curl(context: &Context, row: &'static Operation, parts: &RequestParts) -> Result<String, CliError> {
    let client = context.anonymous()?.client;
    let body = parts.body.as_ref().map(|body| body.to_string());
    let request = curl::Request {
        method: Method::from_bytes(row.method.as_str().as_bytes()).unwrap_or_default(),
        url: client.url_for(&path_and_query(row, parts)?)?,
        token: !matches!(row.access, api::Access::Public) || context.token_if_any()?.is_some(),
        defaults: client.headers(),
        headers: &[],
        body: body.as_ref().map(|body| curl::Body::Json(body.as_bytes())),
        follow_redirects: false,
    };
    Ok(curl::line(&request, &context.common))
}

#[derive(Default)]
struct Arguments {
    help: bool,
    curl: bool,
    file: Option<String>,
    flags: Vec<Flag>,
}

/// Parses the arguments. Only the short options of `oo` are accepted here; long ones would hide keys.
fn parse_arguments(
    context: &mut Context,
    row: &Operation,
    mut words: impl Iterator<Item = String>,
) -> Result<Arguments, CliError> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| CliError::Usage(format!("`{word}` requires a value")));
        match word.as_str() {
            "--help" | "-h" => arguments.help = true,
            "--curl" => arguments.curl = true,
            "-f" => arguments.file = Some(value()?),
            "-e" => context.common.env = Some(value()?),
            "-u" => context.common.user = Some(value()?),
            "-o" => {
                let format = Format::from_str(&value()?, false);
                context.common.output =
                    Some(format.map_err(|_| CliError::Usage("`-o` must be json or yaml here".into()))?);
            }
            _ => arguments.flags.push(
                Flag::parse(&word).map_err(|refusal| refusal.with_hint(format!("see `oo call {} --help`", row.id)))?,
            ),
        }
    }
    Ok(arguments)
}

/// Lists all operations.
fn list(context: &Context) -> Result<String, CliError> {
    #[derive(Serialize)]
    struct Shown {
        id: &'static str,
        method: &'static str,
        path: &'static str,
        summary: String,
    }
    const TABLE: TableLayout = TableLayout {
        columns: &[
            Column::new("OPERATION", Cell::Text(&["id"])),
            Column::new("METHOD", Cell::Text(&["method"])),
            Column::new("PATH", Cell::Text(&["path"])),
            Column::new("SUMMARY", Cell::Text(&["summary"])),
        ],
        name: "id",
    };
    let shown: Vec<Shown> = api::operations()
        .map(|row| Shown { id: row.id, method: row.method.as_str(), path: row.path, summary: row.summary() })
        .collect();
    print::list(context.format(), &TABLE, &print::to_items(&shown)?)
}

fn describe(row: &Operation, inputs: &Inputs) -> String {
    let doc: Vec<_> = row.doc.lines().map(str::trim).collect();
    let mut text = format!("{}\n\n{} {}\n", doc.join("\n").trim(), row.method.as_str(), row.path);
    let keys: Vec<_> =
        inputs.parameters().into_iter().map(|key| (format!("--{}=<{}>", key.name, key.kind), key)).collect();
    let width = keys.iter().map(|(shown, _)| shown.len()).max().unwrap_or_default();
    for (shown, key) in keys {
        let about = key.about.replace('\n', " ");
        text.push_str(format!("\n  {shown:width$}   {:5}   {about}", key.place).trim_end());
    }
    text
}

fn unknown_operation(id: &str) -> CliError {
    let wanted = id.to_lowercase();
    let near: Vec<_> = api::operations()
        .map(|row| row.id)
        .filter(|known| {
            let known = known.to_lowercase();
            known.contains(&wanted) || wanted.contains(&known)
        })
        .collect();
    let hint =
        if near.is_empty() { "`oo call` lists them".into() } else { format!("did you mean {}?", near.join(", ")) };
    CliError::Usage(format!("no operation `{id}`; {hint}"))
}
