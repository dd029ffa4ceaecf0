//! The groups of commands, `oo instance ls` and so on, as folds over `table.rs` and the operations' own schemas: the
//! flags of a command are the keys that its operation takes. Here is what a group is made of; `run.rs` does it.

mod run;
mod table;

use clap::{Arg, ArgAction, ArgMatches, Command};
use openorch_sdk::api::Row;

pub use self::{
    run::{run, things},
    table::RESOURCES,
};
use crate::{
    args::seconds,
    flag::{Flag, Given},
    input::{Inputs, Key},
    print::Kind,
};

/// A kind of thing.
pub struct Resource {
    pub noun: &'static str,
    pub aliases: &'static [&'static str],
    pub about: &'static str,
    /// Its columns, and the field by which it is named on the command line.
    pub kind: Kind<'static>,
    pub list: Option<List>,
    /// Where the list's operation answers with more than these things: what the list is, and which keys say nothing of it.
    pub part: Option<Part>,
    /// The operation that reads one; without it one is picked out of the list.
    pub get: Option<Verb>,
    pub save: Option<Save>,
    pub remove: Option<&'static Row>,
    pub more: &'static [Verb],
}

impl Resource {
    /// What a row does not say.
    pub const NONE: Resource = Resource {
        noun: "",
        aliases: &[],
        about: "",
        kind: Kind { columns: &[], name: "id" },
        list: None,
        part: None,
        get: None,
        save: None,
        remove: None,
        more: &[],
    };
}

pub struct List {
    pub row: &'static Row,
    /// The key of the answer under which the items stand.
    pub items: &'static str,
    pub one: One,
}

/// A list that is a part of an answer.
pub struct Part {
    pub about: &'static str,
    pub without: &'static [&'static str],
}

/// How one of a list is found.
pub enum One {
    /// Among those that the list answers without being told more.
    Picked,
    /// By this key of the list's operation.
    By(&'static str),
    /// The same, or by its slug, which this other key looks for.
    ByIdOrSlug { id: &'static str, search: &'static str },
    /// Not at all: the list says all that there is to know, or only of what it is asked for.
    No,
}

pub struct Save {
    pub row: &'static Row,
    /// The key of the body that takes the object; empty where the object is the body. Where it takes a list, all
    /// documents are sent at once.
    pub wrapper: &'static str,
    /// What makes a document's thing if it has no `id`; the id of the others stands in the path.
    pub new: Option<(&'static Row, &'static str)>,
}

impl Save {
    pub const fn new(row: &'static Row, wrapper: &'static str) -> Save {
        Save { row, wrapper, new: None }
    }
}

/// Another operation on this kind of thing: path parameters are its words, all else its flags.
pub struct Verb {
    pub name: &'static str,
    pub row: &'static Row,
    pub answer: Answer,
    /// Keys of the body that are words too, after those of the path.
    pub words: &'static [&'static str],
    /// A key that is asked for, since arguments are seen by others.
    pub secret: Option<&'static str>,
}

/// What an operation answers with.
pub enum Answer {
    Nothing,
    /// The key under which the thing stands.
    Thing(&'static str),
    /// The key under which other things stand, and what those are.
    Things(&'static str, Kind<'static>),
}

impl Verb {
    pub const fn new(name: &'static str, row: &'static Row, answer: Answer) -> Verb {
        Verb { name, row, answer, words: &[], secret: None }
    }
}

/// The group that a word of the command line means.
pub fn named(word: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.noun == word || resource.aliases.contains(&word))
}

/// The groups, to be put into the command tree. What is in them is worked out for the group that is used alone.
pub fn commands() -> impl Iterator<Item = Command> {
    RESOURCES.iter().map(|resource| {
        Command::new(resource.noun)
            .about(resource.about)
            .visible_aliases(resource.aliases)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .defer(|group| match named(group.get_name()) {
                Some(resource) => group.subcommands(verbs(resource)),
                None => group,
            })
    })
}

fn verbs(resource: &'static Resource) -> Vec<Command> {
    let mut verbs = Vec::new();
    if let Some(list) = &resource.list {
        let watch = Arg::new("watch")
            .short('w')
            .long("watch")
            .value_name("SECONDS")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("2")
            .value_parser(seconds)
            .help("Show the list again and again, every two seconds or as often as said, until Ctrl-C");
        let without = resource.part.as_ref().map_or(&[][..], |part| part.without);
        let command = command("list", list.row).visible_alias("ls").args(flags(list.row, without)).arg(watch);
        verbs.push(match &resource.part {
            Some(part) => command.about(part.about),
            None => command,
        });
    }
    match &resource.get {
        Some(verb) => verbs.push(verb_command(verb)),
        None if resource.list.as_ref().is_some_and(|list| !matches!(list.one, One::No)) => {
            let about = format!("Show one {} with all that is known of it", resource.noun);
            let id = Arg::new("id").value_name(name_of(resource)).required(true);
            let id = id.help(format!("As `oo {} ls -o name` prints it", resource.noun));
            verbs.push(Command::new("get").about(about).arg(id));
        }
        None => {}
    }
    if let Some(save) = &resource.save {
        let help =
            "YAML or JSON files, each with one document or several; folders of such files; `-` is standard input";
        let places = Arg::new("places").value_name("FILE").num_args(1..).required(true).help(help);
        let mut command = command("save", save.row);
        if save.new.is_some() {
            let noun = resource.noun;
            command = command
                .about(format!("Save {noun}s: a document with an `id` changes that {noun}, one without makes one"));
        }
        verbs.push(command.visible_alias("s").arg(places));
    }
    if let Some(row) = resource.remove {
        let ids = Arg::new("ids").value_name(name_of(resource)).num_args(1..).required(true);
        let yes = Arg::new("yes").short('y').long("yes").action(ArgAction::SetTrue).help("Do not ask");
        let ids = ids.help(format!("As `oo {} ls -o name` prints them", resource.noun));
        verbs.push(command("remove", row).visible_alias("rm").arg(ids).arg(yes).args(flags(row, &[])));
    }
    verbs.extend(resource.more.iter().map(verb_command));
    verbs
}

fn command(name: &'static str, row: &Row) -> Command {
    let rest = row.description();
    let command = Command::new(name).about(row.summary());
    if rest.is_empty() { command } else { command.after_help(rest) }
}

fn verb_command(verb: &Verb) -> Command {
    let word = |name| Arg::new(name).value_name(&*dashed(name).to_uppercase().leak()).required(true);
    let words = verb.row.path_parameters().chain(verb.words.iter().copied()).map(word);
    let others: Vec<_> = verb.words.iter().copied().chain(verb.secret).collect();
    command(verb.name, verb.row).args(words).args(flags(verb.row, &others))
}

/// What a thing is called in usage lines.
fn name_of(resource: &Resource) -> &'static str {
    if resource.kind.name.is_empty() { "ID" } else { resource.kind.name.to_uppercase().leak() }
}

/// The keys of an operation, but for some, as flags: `deploymentId` is `--deployment-id`, and its own spelling is understood
/// too.
fn flags(row: &'static Row, but: &[&str]) -> Vec<Arg> {
    let flag = |key: Key| {
        let Key { name, kind, about, .. } = key;
        // A command tree lives as long as the program.
        let name: &'static str = name.leak();
        let looks_for = format!("Only those with this {}", dashed(name).replace('-', " "));
        let help = if about.is_empty() && row.id.starts_with("list") { looks_for } else { about };
        let mut arg = Arg::new(name).long(dashed(name)).help(help.replace('\n', " ").trim_end_matches('.').to_owned());
        if name.chars().any(char::is_uppercase) {
            arg = arg.alias(name);
        }
        match kind.as_str() {
            "boolean" => arg.action(ArgAction::SetTrue),
            "array" => arg.action(ArgAction::Append).value_name("VALUE"),
            kind => arg.value_name(&*kind.to_uppercase().leak()),
        }
    };
    Inputs::of(row)
        .known()
        .into_iter()
        .filter(|key| key.place != "path" && !but.contains(&key.name.as_str()))
        .map(flag)
        .collect()
}

/// What the command line says of an operation's keys.
fn given(row: &'static Row, matches: &ArgMatches) -> Vec<Flag> {
    let mut flags = Vec::new();
    for Key { name, kind, .. } in Inputs::of(row).known() {
        if kind == "boolean" {
            // A list that is a part of an answer leaves some out.
            if matches.try_get_one::<bool>(&name).ok().flatten() == Some(&true) {
                flags.push(Flag { key: name, value: Given::Json(true.into()) });
            }
            continue;
        }
        // What is asked for is no argument.
        for value in matches.try_get_many::<String>(&name).ok().flatten().into_iter().flatten() {
            flags.push(Flag { key: name.clone(), value: Given::Plain(value.clone()) });
        }
    }
    flags
}

fn dashed(name: &str) -> &'static str {
    let mut dashed = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            dashed.push('-');
        }
        dashed.extend(c.to_lowercase());
    }
    dashed.leak()
}
