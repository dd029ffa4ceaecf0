//! Shell completion. The scripts in `completion/` call `oo complete` with the words so far. It prints one candidate per
//! line, each with a tab and a description: commands and options come from the command tree, operations and their keys
//! from the table, environments and users from the settings, ids from the server. Whatever takes longer than a second
//! is left out.

use std::time::Duration;

use clap::{Arg, Command, ValueEnum};
use openorch_sdk::api;

use crate::{
    args,
    context::Context,
    error::printable,
    input::Inputs,
    resource::{self, Resource},
};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Timeout for values that come from the server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);

/// The completion script of a shell.
pub fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => include_str!("completion/oo.bash"),
        Shell::Zsh => include_str!("completion/oo.zsh"),
        Shell::Fish => include_str!("completion/oo.fish"),
    }
    .to_owned()
}

/// A word that may come next, and its description.
type Candidate = (String, String);

/// The candidates for the last word, which is unfinished. Never fails: a shell cannot show an error here.
pub async fn candidates(context: &mut Context, mut words: Vec<String>) -> String {
    context.common.timeout = Some(SERVER_TIMEOUT);
    let current = words.pop().unwrap_or_default();
    let mut tree = args::command();
    tree.build();
    let cursor = Cursor::find(context, &tree, &words);
    let found = cursor.candidates(context, &current).await;
    let fitting = found.into_iter().filter(|(word, _)| word.starts_with(&current) && *word != current);
    fitting.map(|(word, about)| format!("{}\t{}\n", printable(&word), printable(&about))).collect()
}

/// Position of the unfinished word in the command line.
struct Cursor<'a> {
    command: &'a Command,
    group: Option<&'static Resource>,
    /// The option whose value is being completed.
    option: Option<&'a Arg>,
    /// Number of positional words already given to the command.
    words: usize,
    /// The words of a call, starting with its operation or path.
    input: &'a [String],
}

impl<'a> Cursor<'a> {
    fn find(context: &mut Context, tree: &'a Command, words: &'a [String]) -> Cursor<'a> {
        let mut place = Cursor { command: tree, group: None, option: None, words: 0, input: &[] };
        for (at, word) in words.iter().enumerate() {
            if let Some(option) = place.option.take() {
                match option.get_id().as_str() {
                    "env" => context.common.env = Some(word.clone()),
                    "user" => context.common.user = Some(word.clone()),
                    _ => {}
                }
            } else if word.starts_with('-') {
                let named = |arg: &&Arg| spellings(arg).contains(word);
                let takes_value = |arg: &&Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
                place.option = place.command.get_arguments().find(named).filter(takes_value);
            } else if let Some(command) = place.command.find_subcommand(word) {
                place.group = place.group.or_else(|| resource::find_resource(command.get_name()));
                place.command = command;
                place.words = 0;
            } else if place.command.is_allow_external_subcommands_set() {
                place.input = &words[at..];
                break;
            } else {
                place.words += 1;
            }
        }
        place
    }

    async fn candidates(&self, context: &Context, current: &str) -> Vec<Candidate> {
        if let Some(option) = self.option {
            return self.values(context, option).await;
        }
        if self.command.is_allow_external_subcommands_set() {
            let own =
                if self.input.is_empty() && current.starts_with('-') { options(self.command) } else { Vec::new() };
            return own.into_iter().chain(self.input_of_call(context, current).await).collect();
        }
        if current.starts_with('-') {
            return options(self.command);
        }
        let commands = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut found: Vec<Candidate> = commands
            .map(|command| {
                (command.get_name().into(), command.get_about().map(ToString::to_string).unwrap_or_default())
            })
            .collect();
        let mut positionals = self.command.get_positionals();
        // The last positional may take several words.
        let takes_many = |arg: &&Arg| arg.get_num_args().is_some_and(|count| count.max_values() > 1);
        if let Some(word) =
            positionals.nth(self.words).or_else(|| self.command.get_positionals().last().filter(takes_many))
        {
            found.extend(self.values(context, word).await);
        }
        found
    }

    /// The values of an option or positional of the command.
    async fn values(&self, context: &Context, arg: &Arg) -> Vec<Candidate> {
        let known = arg.get_possible_values();
        if !known.is_empty() {
            let about = |value: &clap::builder::PossibleValue| value.get_help().map(ToString::to_string);
            return known.iter().map(|value| (value.get_name().into(), about(value).unwrap_or_default())).collect();
        }
        match (arg.get_id().as_str(), self.command.get_name()) {
            ("env" | "environment", _) => environments(context),
            ("user", _) | ("slug", "login" | "logout" | "switch") => users(context),
            ("id" | "ids", _) => match self.group {
                Some(group) => server_items(context, group).await,
                None => Vec::new(),
            },
            ("words", "man") => {
                args::command().get_subcommands().map(|command| (command.get_name().into(), String::new())).collect()
            }
            (id, _) => match resource_of_key(id) {
                Some(group) => server_items(context, group).await,
                None => Vec::new(),
            },
        }
    }

    /// Candidates after `oo call` and `oo get`.
    async fn input_of_call(&self, context: &Context, current: &str) -> Vec<Candidate> {
        let name = self.command.get_name();
        match self.input.first() {
            None if name == "call" => api::operations().map(|row| (row.id.to_owned(), row.summary())).collect(),
            None => paths(name),
            Some(id) if name == "call" => match api::operations().find(|row| row.id == *id) {
                Some(row) => keys(context, row, current).await,
                None => Vec::new(),
            },
            Some(_) => Vec::new(),
        }
    }
}

/// The group of the items that a key of an operation refers to.
fn resource_of_key(key: &str) -> Option<&'static Resource> {
    resource::find_resource(match key {
        "userId" => "user",
        "roleId" | "roleIds" | "role" | "roles" => "role",
        "organizationId" => "org",
        _ => return None,
    })
}

/// The keys of an operation, or the values of the key being completed.
async fn keys(context: &Context, row: &'static api::Operation, current: &str) -> Vec<Candidate> {
    let keys = Inputs::of(row).parameters();
    let Some((begun, _)) = current.split_once('=') else {
        return keys.into_iter().map(|key| (format!("--{}=", key.name), key.about.replace('\n', " "))).collect();
    };
    let Some(key) = keys.into_iter().find(|key| begun.strip_prefix("--") == Some(&key.name)) else { return Vec::new() };
    let values = match (key.kind.as_str(), key.place) {
        ("boolean", _) => ["true", "false"].map(|word| (word.to_owned(), String::new())).to_vec(),
        // The id that a remove operation takes is one that its group lists.
        (_, "path") => {
            match resource::RESOURCES.iter().find(|group| group.remove.is_some_and(|remove| remove.id == row.id)) {
                Some(group) => server_items(context, group).await,
                None => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    values.into_iter().map(|(value, about)| (format!("{begun}={value}"), about)).collect()
}

/// The callable paths for a method, up to their first parameter.
fn paths(method: &str) -> Vec<Candidate> {
    let rows = api::operations().filter(|row| row.method.as_str().eq_ignore_ascii_case(method));
    let fixed = |path: &str| path.split('{').next().unwrap_or_default().to_owned();
    rows.map(|row| (fixed(row.path), row.summary())).collect()
}

fn options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    shown
        .filter_map(|arg| {
            let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some((format!("--{}", arg.get_long()?), about))
        })
        .collect()
}

/// The spellings of an option.
fn spellings(arg: &Arg) -> Vec<String> {
    let long = arg.get_long_and_visible_aliases().unwrap_or_default().into_iter().map(|name| format!("--{name}"));
    long.chain(arg.get_short().map(|short| format!("-{short}"))).collect()
}

fn environments(context: &Context) -> Vec<Candidate> {
    let config = context.config().unwrap_or_default();
    config.environments.into_iter().map(|(name, environment)| (name, environment.url)).collect()
}

fn users(context: &Context) -> Vec<Candidate> {
    let (Ok(config), Ok(server)) = (context.config(), context.server()) else { return Vec::new() };
    let users = config.environments.get(&server.name).map(|known| known.users.keys().cloned().collect::<Vec<_>>());
    users.unwrap_or_default().into_iter().map(|slug| (slug, String::new())).collect()
}

async fn server_items(context: &Context, group: &'static Resource) -> Vec<Candidate> {
    let mut things = resource::completion_items(context, group).await.unwrap_or_default();
    // A name that looks like an option would be parsed as one.
    things.retain(|(name, _)| !name.is_empty() && !name.starts_with('-'));
    things
}
