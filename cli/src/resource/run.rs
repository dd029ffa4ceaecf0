//! Executes the commands of a group.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::ArgMatches;
use openorch_sdk::{
    Response,
    api::{Operation, RequestParts},
};
use serde_json::{Map, Value as Json, value::RawValue};

use super::{Answer, List, Lookup, Resource, Save, Verb, flags_of_matches};
use crate::{
    args::Format,
    context::{Connection, Context},
    error::{CliError, UNEXPECTED_RESPONSE, warn},
    flag::{Flag, FlagValue},
    input::Inputs,
    json,
    manifest::{self, Document},
    print::{self, Item, Output},
    prompt,
};

/// Runs the selected command of `resource`.
pub async fn run(context: &Context, resource: &'static Resource, matches: &ArgMatches) -> Result<Output, CliError> {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(Output::Text(String::new())) };
    let words = |name: &str| -> Vec<String> { matches.get_many(name).into_iter().flatten().cloned().collect() };
    let text = match (verb, &resource.list, &resource.save, resource.remove) {
        ("list", Some(from), ..) => match matches.get_one::<Duration>("watch") {
            Some(every) => watch(context, resource, from, matches, *every).await,
            None => list(context, &context.connection_for(from.row)?, resource, from, matches).await,
        },
        ("get", Some(from), ..) if resource.get.is_none() => get(context, resource, from, &words("id").concat()).await,
        ("save", _, Some(save), _) => save_all(context, resource, save, words("places")).await,
        ("remove", .., Some(row)) => remove(context, resource, row, words("ids"), matches).await,
        _ => match resource.verbs.iter().chain(&resource.get).find(|more| more.name == verb) {
            Some(more) => run_verb(context, resource, more, matches).await,
            None => Err(CliError::Usage(format!("no command `oo {} {verb}`", resource.noun))),
        },
    };
    text.map(Output::Text)
}

async fn list(
    context: &Context,
    connection: &Connection,
    resource: &Resource,
    from: &List,
    matches: &ArgMatches,
) -> Result<String, CliError> {
    let parts = Inputs::of(from.row).fill(flags_of_matches(from.row, matches), None)?;
    let answer = context.send(connection, from.row, &parts).await?;
    let text = print::list(context.format(), &resource.kind, &items_at(&answer, from.items)?)?;
    if let Some(next) = next_cursor(&answer)? {
        warn(&format!("there are more; next page: {}", next_page_argument(from.row, &next)));
    }
    Ok(text)
}

/// The cursor of the next page, if there is one.
fn next_cursor(answer: &Response) -> Result<Option<String>, CliError> {
    let next = fields(answer)?.get("next").and_then(|next| serde_json::from_str::<String>(next.get()).ok());
    Ok(next.filter(|next| !next.is_empty()))
}

/// The argument that selects the next page.
fn next_page_argument(row: &'static Operation, next: &str) -> String {
    if Inputs::of(row).body_kind("after").is_some() {
        return format!("--after='{next}'");
    }
    format!("--query='{}'", serde_json::json!({ "jsonAfter": next }))
}

async fn list_items(
    context: &Context,
    connection: &Connection,
    from: &List,
    matches: &ArgMatches,
) -> Result<Vec<Item>, CliError> {
    let parts = Inputs::of(from.row).fill(flags_of_matches(from.row, matches), None)?;
    items(context, connection, from, &parts).await
}

/// The items that a list operation returns.
async fn items(
    context: &Context,
    connection: &Connection,
    from: &List,
    parts: &RequestParts,
) -> Result<Vec<Item>, CliError> {
    let answer = context.send(connection, from.row, parts).await?;
    items_at(&answer, from.items)
}

/// The items of a list in an answer.
fn items_at(answer: &Response, key: &str) -> Result<Vec<Item>, CliError> {
    let items = match fields(answer)?.get(key) {
        // An empty list is omitted.
        None => None,
        Some(items) => {
            serde_json::from_str::<Option<Vec<&RawValue>>>(items.get()).map_err(|_| unexpected_response())?
        }
    };
    items.into_iter().flatten().map(|item| Item::read(item.get()).ok_or_else(unexpected_response)).collect()
}

/// The raw fields of an answer.
fn fields(answer: &Response) -> Result<BTreeMap<String, &RawValue>, CliError> {
    serde_json::from_slice(&answer.bytes).map_err(|_| unexpected_response())
}

fn unexpected_response() -> CliError {
    CliError::Other(UNEXPECTED_RESPONSE.into())
}

/// Prints the list until Ctrl-C: in place on a terminal, otherwise one after the other, JSON on one line each and YAML
/// as documents. Continues while the server is unreachable.
async fn watch(
    context: &Context,
    resource: &Resource,
    from: &List,
    matches: &ArgMatches,
    every: Duration,
) -> Result<String, CliError> {
    // Reused for every refresh.
    let connection = context.connection_for(from.row)?;
    let (is_terminal, format) = (io::stdout().is_terminal(), context.format());
    let mut was_shown = false;
    loop {
        match list_items(context, &connection, from, matches).await {
            Ok(things) => {
                let text = match format {
                    Format::Json if !is_terminal => json::compact(&print::json_array(&things)),
                    _ => print::list(format, &resource.kind, &things)?,
                };
                let begin = match format {
                    _ if is_terminal => "\u{1b}[H\u{1b}[2J",
                    Format::Yaml if was_shown => "---\n",
                    _ => "",
                };
                let end = if text.ends_with('\n') { "" } else { "\n" };
                let mut out = anstream::stdout().lock();
                match write!(out, "{begin}{text}{end}").and_then(|()| out.flush()) {
                    // The reader has closed the pipe.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(String::new()),
                    written => written?,
                }
                was_shown = true;
            }
            Err(failure) if was_shown && failure.code() == 5 => warn(&failure.without_hint().to_string()),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(every).await;
    }
}

/// One item, looked up in the list.
async fn get(context: &Context, resource: &Resource, from: &List, name: &str) -> Result<String, CliError> {
    let connection = context.connection_for(from.row)?;
    let by = |key: &str| vec![Flag { key: key.into(), value: FlagValue::Text(name.into()) }];
    let (asked, fields): (Vec<Vec<Flag>>, &[&str]) = match from.one {
        Lookup::ByKey(key) => (vec![by(key)], &["id"]),
        Lookup::ByIdOrSlug { id, search } => (vec![by(id), by(search)], &["id", "slug"]),
        Lookup::InList | Lookup::Unsupported => (vec![Vec::new()], &["id"]),
    };
    let matches_name =
        |item: &Item| fields.iter().chain([&resource.kind.name]).any(|field| item.text_at(field) == name);
    let mut found = None;
    for flags in asked {
        let parts = Inputs::of(from.row).fill(flags, None)?;
        found = items(context, &connection, from, &parts).await?.into_iter().find(|item| matches_name(item));
        if found.is_some() {
            break;
        }
    }
    match found {
        Some(item) => print::item(context.common.output.unwrap_or(Format::Yaml), &resource.kind, &item),
        None => Err(CliError::NotFound(format!(
            "no {0} with the {1} `{name}`; `oo {0} ls` lists all",
            resource.noun, resource.kind.name
        ))),
    }
}

/// Saves the documents in files. All files are read and checked before the first call.
async fn save_all(
    context: &Context,
    resource: &Resource,
    save: &Save,
    places: Vec<String>,
) -> Result<String, CliError> {
    let mut documents = Vec::new();
    for place in &places {
        documents.extend(manifest::read_all(place)?);
    }
    let connection = context.connection_for(save.row)?;
    if Inputs::of(save.row).body_kind(save.wrapper) == Some("array") {
        let mut all = Vec::new();
        for Document { location: place, value } in documents {
            let things = elements(value, save.wrapper);
            refuse_unknown_keys(resource, save.row, &wrap(Json::Array(things.clone()), save.wrapper), &place)?;
            all.extend(things);
        }
        context.send(&connection, save.row, &with_body(wrap(Json::Array(all), save.wrapper))).await?;
        return Ok(String::new());
    }
    if let Some(Document { location: place, value }) = documents.iter().find(|document| !document.value.is_object()) {
        let kind = if value.is_array() { "a list" } else { "a single value" };
        return Err(CliError::Usage(format!(
            "`{place}` contains {kind} instead of one {}; nothing was sent. Separate several documents with `---`",
            resource.noun
        )));
    }
    let all = documents.len();
    let mut calls = Vec::new();
    for Document { location: place, value } in documents {
        let (row, parts) = call_of(save, value);
        refuse_unknown_keys(resource, row, parts.body.as_ref().unwrap_or(&Json::Null), &place)?;
        calls.push((place, row, parts));
    }
    for (done, (place, row, parts)) in calls.into_iter().enumerate() {
        context.progress.count(done, all, "saved");
        let sent = context.send(&connection, row, &parts).await;
        sent.map_err(|failure| with_progress(context, failure, &place, all))?;
    }
    context.progress.count(all, all, "saved");
    Ok(String::new())
}

/// The server ignores unknown keys, so a mistyped one would be lost silently. Keys of the list's items are accepted
/// too: an item can be saved as it was listed.
fn refuse_unknown_keys(resource: &Resource, row: &'static Operation, body: &Json, place: &str) -> Result<(), CliError> {
    let mut body = body.clone();
    if let Some(normalise) = row.normalize_body {
        normalise(&mut body);
    }
    let listed = resource.list.as_ref().map(|list| Inputs::answer_keys(list.row, list.items)).unwrap_or_default();
    let Some(unknown) = Inputs::of(row).unknown_key(&body, &listed) else { return Ok(()) };
    let hint = match unknown.nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("it accepts {}", unknown.known.join(", ")),
    };
    Err(CliError::Usage(format!("`{place}`: unknown key `{}`; {hint} Nothing was sent", unknown.key)))
}

/// The items of a document that goes into a call with many: a list, or a complete body of that call.
fn elements(value: Json, wrapper: &str) -> Vec<Json> {
    match value {
        Json::Array(list) => list,
        Json::Object(mut fields) if fields.len() == 1 && fields.get(wrapper).is_some_and(Json::is_array) => {
            fields.remove(wrapper).map_or(Vec::new(), |list| elements(list, wrapper))
        }
        one => vec![one],
    }
}

/// The operation that saves a document, and its input.
fn call_of(save: &Save, mut value: Json) -> (&'static Operation, RequestParts) {
    let Some((new, wrapper)) = save.create else {
        let in_path = save.row.path_parameters().next().is_some();
        let id = value.get("id").or_else(|| value.get(save.wrapper)?.get("id")).and_then(Json::as_str);
        let path = id.filter(|_| in_path).map(str::to_owned).into_iter().collect();
        return (save.row, RequestParts { path, ..with_body(wrap(value, save.wrapper)) });
    };
    let id = value.as_object_mut().and_then(|fields| fields.remove("id"));
    match id.as_ref().and_then(Json::as_str) {
        Some(id) => (save.row, RequestParts { path: vec![id.to_owned()], ..with_body(wrap(value, save.wrapper)) }),
        None => (new, with_body(wrap(value, wrapper))),
    }
}

/// Wraps a value in its key, unless it already is.
fn wrap(value: Json, wrapper: &str) -> Json {
    if wrapper.is_empty() || value.get(wrapper).is_some() {
        return value;
    }
    Json::Object(Map::from_iter([(wrapper.to_owned(), value)]))
}

fn with_body(body: Json) -> RequestParts {
    RequestParts { body: Some(body), ..RequestParts::default() }
}

async fn remove(
    context: &Context,
    resource: &Resource,
    row: &'static Operation,
    names: Vec<String>,
    matches: &ArgMatches,
) -> Result<String, CliError> {
    let connection = context.connection_for(row)?;
    prompt::confirm(&format!("Remove the {} {}?", resource.noun, names.join(", ")), matches.get_flag("yes"))?;
    let flags = Inputs::of(row).fill_without_path(flags_of_matches(row, matches))?;
    let all = names.len();
    for (done, name) in names.into_iter().enumerate() {
        context.progress.count(done, all, "removed");
        let parts = RequestParts { path: vec![name.clone()], ..flags.clone() };
        context.send(&connection, row, &parts).await.map_err(|failure| with_progress(context, failure, &name, all))?;
    }
    context.progress.count(all, all, "removed");
    Ok(String::new())
}

/// Adds to a failure among several items which one failed and how many were done.
fn with_progress(context: &Context, failure: CliError, place: &str, all: usize) -> CliError {
    if all == 1 { failure } else { failure.with_hint(format!("at `{place}`; {}", context.progress.summary())) }
}

/// Runs another operation of the group.
async fn run_verb(
    context: &Context,
    resource: &Resource,
    verb: &Verb,
    matches: &ArgMatches,
) -> Result<String, CliError> {
    let mut flags = flags_of_matches(verb.row, matches);
    if let Some(key) = verb.secret {
        flags.push(Flag { key: key.into(), value: FlagValue::Text(prompt::new_password(None, "New password: ")?) });
    }
    let parts = Inputs::of(verb.row).fill(flags, None)?;
    let answer = context.send(&context.connection_for(verb.row)?, verb.row, &parts).await?;
    match &verb.answer {
        Answer::Nothing => Ok(String::new()),
        Answer::Items(key, kind) => print::list(context.format(), kind, &items_at(&answer, key)?),
        Answer::Item(key) => {
            let thing =
                fields(&answer)?.get(*key).and_then(|thing| Item::read(thing.get())).ok_or_else(unexpected_response)?;
            print::item(context.common.output.unwrap_or(Format::Yaml), &resource.kind, &thing)
        }
    }
}

/// All items of this kind with a description, for completion.
pub async fn completion_items(context: &Context, resource: &Resource) -> Result<Vec<(String, String)>, CliError> {
    let Some(from) = &resource.list else { return Ok(Vec::new()) };
    let parts = Inputs::of(from.row).fill(Vec::new(), None)?;
    let items = items(context, &context.connection_for(from.row)?, from, &parts).await?;
    let name = resource.kind.name;
    let about = |item: &Item| {
        let others = ["slug", "status", "url", "image.name", "name"].into_iter().filter(|field| *field != name);
        others.map(|field| item.text_at(field)).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
    };
    Ok(items.iter().map(|item| (item.text_at(name), about(item))).collect())
}
