//! The command groups, `oo instance ls` and so on, generated from `table.rs` and the operations' schemas: the flags of
//! a command are the keys that its operation accepts. This file defines the groups; `run.rs` executes them.

mod run;
mod table;

use clap::{Arg, ArgAction, ArgMatches, Command};
use openorch_sdk::api::Operation;

pub use self::{
    run::{completion_items, run},
    table::RESOURCES,
};
use crate::{
    args::seconds,
    flag::{Flag, FlagValue},
    input::{Inputs, Key},
    print::TableLayout,
};

/// A kind of item and its commands.
pub struct Resource {
    pub noun: &'static str,
    pub aliases: &'static [&'static str],
    pub about: &'static str,
    /// Its columns, and the field that identifies an item on the command line.
    pub kind: TableLayout<'static>,
    pub list: Option<List>,
    /// Set if the answer of the list operation contains more than these items.
    pub part: Option<PartialList>,
    /// The operation that reads one item; without it the item is looked up in the list.
    pub get: Option<Verb>,
    pub save: Option<Save>,
    pub remove: Option<&'static Operation>,
    pub verbs: &'static [Verb],
}

impl Resource {
    /// Defaults for a table entry.
    pub const NONE: Resource = Resource {
        noun: "",
        aliases: &[],
        about: "",
        kind: TableLayout { columns: &[], name: "id" },
        list: None,
        part: None,
        get: None,
        save: None,
        remove: None,
        verbs: &[],
    };
}

pub struct List {
    pub row: &'static Operation,
    /// The key of the answer that contains the items.
    pub items: &'static str,
    pub one: Lookup,
}

/// A list that is one part of an answer: its help text, and the keys that do not apply to it.
pub struct PartialList {
    pub about: &'static str,
    pub excluded_keys: &'static [&'static str],
}

/// How a single item is looked up.
pub enum Lookup {
    /// In the list without parameters.
    InList,
    /// By this parameter of the list operation.
    ByKey(&'static str),
    /// By this parameter, or by slug with the other one.
    ByIdOrSlug { id: &'static str, search: &'static str },
    /// Not supported: the list shows everything, or requires parameters.
    Unsupported,
}

pub struct Save {
    pub row: &'static Operation,
    /// The key of the body that contains the object; empty if the object is the body. If the key takes a list, all
    /// documents are sent in one call.
    pub wrapper: &'static str,
    /// The operation and wrapper key that create an item whose document has no `id`; the id of the others goes into the
    /// path.
    pub create: Option<(&'static Operation, &'static str)>,
}

impl Save {
    pub const fn new(row: &'static Operation, wrapper: &'static str) -> Save {
        Save { row, wrapper, create: None }
    }
}

/// Another operation on this kind of item: path parameters are positional arguments, the other keys are flags.
pub struct Verb {
    pub name: &'static str,
    pub row: &'static Operation,
    pub answer: Answer,
    /// Keys of the body that are positional arguments too, after those of the path.
    pub arguments: &'static [&'static str],
    /// A key that is prompted for, because arguments are visible to other users.
    pub secret: Option<&'static str>,
}

/// How the answer of an operation is printed.
pub enum Answer {
    Nothing,
    /// The key that contains the item.
    Item(&'static str),
    /// The key that contains items of another kind, and how to print them.
    Items(&'static str, TableLayout<'static>),
}

impl Verb {
    pub const fn new(name: &'static str, row: &'static Operation, answer: Answer) -> Verb {
        Verb { name, row, answer, arguments: &[], secret: None }
    }
}

/// The group with this name or alias.
pub fn find_resource(word: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.noun == word || resource.aliases.contains(&word))
}

/// The groups as commands. The subcommands of a group are built only when it is used.
pub fn commands() -> impl Iterator<Item = Command> {
    RESOURCES.iter().map(|resource| {
        Command::new(resource.noun)
            .about(resource.about)
            .visible_aliases(resource.aliases)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .defer(|group| match find_resource(group.get_name()) {
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
            .help("Refresh the list every two seconds, or every SECONDS, until Ctrl-C");
        let without = resource.part.as_ref().map_or(&[][..], |part| part.excluded_keys);
        let command = command("list", list.row).visible_alias("ls").args(flags(list.row, without)).arg(watch);
        verbs.push(match &resource.part {
            Some(part) => command.about(part.about),
            None => command,
        });
    }
    match &resource.get {
        Some(verb) => verbs.push(verb_command(verb)),
        None if resource.list.as_ref().is_some_and(|list| !matches!(list.one, Lookup::Unsupported)) => {
            let about = format!("Show all fields of one {}", resource.noun);
            let id = Arg::new("id").value_name(placeholder(resource)).required(true);
            let id = id.help(format!("As `oo {} ls -o name` prints it", resource.noun));
            verbs.push(Command::new("get").about(about).arg(id));
        }
        None => {}
    }
    if let Some(save) = &resource.save {
        let help =
            "YAML or JSON files with one or more documents, directories of such files, or `-` for standard input";
        let places = Arg::new("places").value_name("FILE").num_args(1..).required(true).help(help);
        let mut command = command("save", save.row);
        if save.create.is_some() {
            let noun = resource.noun;
            command = command
                .about(format!("Save {noun}s: a document with an `id` updates that {noun}, one without creates one"));
        }
        verbs.push(command.visible_alias("s").arg(places));
    }
    if let Some(row) = resource.remove {
        let ids = Arg::new("ids").value_name(placeholder(resource)).num_args(1..).required(true);
        let yes = Arg::new("yes").short('y').long("yes").action(ArgAction::SetTrue).help("Skip the confirmation");
        let ids = ids.help(format!("As `oo {} ls -o name` prints them", resource.noun));
        verbs.push(command("remove", row).visible_alias("rm").arg(ids).arg(yes).args(flags(row, &[])));
    }
    verbs.extend(resource.verbs.iter().map(verb_command));
    verbs
}

fn command(name: &'static str, row: &Operation) -> Command {
    let rest = row.description();
    let command = Command::new(name).about(row.summary());
    if rest.is_empty() { command } else { command.after_help(rest) }
}

fn verb_command(verb: &Verb) -> Command {
    let word = |name| Arg::new(name).value_name(&*kebab_case(name).to_uppercase().leak()).required(true);
    let words = verb.row.path_parameters().chain(verb.arguments.iter().copied()).map(word);
    let others: Vec<_> = verb.arguments.iter().copied().chain(verb.secret).collect();
    command(verb.name, verb.row).args(words).args(flags(verb.row, &others))
}

/// Placeholder of an item in usage lines.
fn placeholder(resource: &Resource) -> &'static str {
    if resource.kind.name.is_empty() { "ID" } else { resource.kind.name.to_uppercase().leak() }
}

/// The keys of an operation, except those in `excluded`, as flags: `deploymentId` is `--deployment-id`; its own spelling is
/// an alias.
fn flags(row: &'static Operation, excluded: &[&str]) -> Vec<Arg> {
    let flag = |key: Key| {
        let Key { name, kind, about, .. } = key;
        // A command tree lives as long as the process.
        let name: &'static str = name.leak();
        let filter_help = format!("Filter by {}", kebab_case(name).replace('-', " "));
        let help = if about.is_empty() && row.id.starts_with("list") { filter_help } else { about };
        let mut arg =
            Arg::new(name).long(kebab_case(name)).help(help.replace('\n', " ").trim_end_matches('.').to_owned());
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
        .parameters()
        .into_iter()
        .filter(|key| key.place != "path" && !excluded.contains(&key.name.as_str()))
        .map(flag)
        .collect()
}

/// The values of an operation's keys on the command line.
fn flags_of_matches(row: &'static Operation, matches: &ArgMatches) -> Vec<Flag> {
    let mut flags = Vec::new();
    for Key { name, kind, .. } in Inputs::of(row).parameters() {
        if kind == "boolean" {
            // Keys that do not apply to a partial list are not declared.
            if matches.try_get_one::<bool>(&name).ok().flatten() == Some(&true) {
                flags.push(Flag { key: name, value: FlagValue::Json(true.into()) });
            }
            continue;
        }
        // A prompted key is not an argument.
        for value in matches.try_get_many::<String>(&name).ok().flatten().into_iter().flatten() {
            flags.push(Flag { key: name.clone(), value: FlagValue::Plain(value.clone()) });
        }
    }
    flags
}

fn kebab_case(name: &str) -> &'static str {
    let mut dashed = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            dashed.push('-');
        }
        dashed.extend(c.to_lowercase());
    }
    dashed.leak()
}
