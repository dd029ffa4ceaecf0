//! `oo env`: manages the configured servers. Calls none of them.

use serde::Serialize;

use crate::{
    args::EnvCommand,
    config::{Config, Environment},
    context::{Context, not_found},
    error::{CliError, warn},
    print::{self, Cell, Column, TableLayout},
};

pub fn run(context: &Context, command: EnvCommand) -> Result<String, CliError> {
    match command {
        EnvCommand::Add { name, url, description } => add(context, &name, &url, description),
        EnvCommand::List => list(context),
        EnvCommand::Select { environment } => select(context, environment),
        EnvCommand::Remove { environment } => remove(context, &environment),
        EnvCommand::Current => current(context),
    }
}

fn add(context: &Context, name: &str, url: &str, description: Option<String>) -> Result<String, CliError> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(CliError::Usage("an environment name must be a word, for example `local`".into()));
    }
    let url = openorch_sdk::server_url(url)?;
    context.file.change(|config| {
        let is_new = !config.environments.contains_key(name);
        let environment = config.environments.entry(name.to_owned()).or_insert_with(|| Environment::new(name, &url));
        if environment.url != url {
            // The tokens were issued by the previous server and must not be sent to another one.
            if !environment.users.is_empty() {
                let users: Vec<_> = environment.users.keys().map(String::as_str).collect();
                warn(&format!(
                    "`{name}` pointed to {}; its users were signed out here ({})",
                    environment.url,
                    users.join(", ")
                ));
            }
            environment.users.clear();
            environment.selected_user.clear();
            environment.url = url;
        }
        if let Some(description) = description {
            environment.description = description;
        }
        if is_new {
            config.selected_environment = name.to_owned();
        }
        Ok(String::new())
    })
}

fn select(context: &Context, name: String) -> Result<String, CliError> {
    // A broken file has no environments; report it as broken instead of the name as unknown.
    context.file.load()?;
    context.file.change(|config| {
        if !config.environments.contains_key(&name) {
            return Err(not_found(&name));
        }
        config.selected_environment = name;
        Ok(String::new())
    })
}

fn remove(context: &Context, name: &str) -> Result<String, CliError> {
    context.file.load()?;
    context.file.change(|config| {
        config.environments.remove(name).ok_or_else(|| not_found(name))?;
        if config.selected_environment == name {
            config.selected_environment.clear();
        }
        Ok(String::new())
    })
}

/// An environment as it is printed: without tokens.
#[derive(Serialize)]
struct Shown {
    name: String,
    selected: bool,
    url: String,
    description: String,
    users: Vec<String>,
}

const LIST: TableLayout = TableLayout {
    columns: &[
        Column::new("ENV NAME", Cell::Text(&["name"])),
        Column::new("SELECTED", Cell::Star("selected")),
        Column::new("URL", Cell::Text(&["url"])),
        Column::new("DESCRIPTION", Cell::Text(&["description"])),
        Column::wide("USERS", Cell::Text(&["users"])),
    ],
    name: "name",
};

/// The documented columns. The first one shows the name, under its documented header.
const CURRENT: TableLayout = TableLayout {
    columns: &[
        Column::new("SELECTED", Cell::Text(&["name"])),
        Column::new("USERS", Cell::Text(&["users"])),
        Column::new("URL", Cell::Text(&["url"])),
        Column::new("DESCRIPTION", Cell::Text(&["description"])),
    ],
    name: "name",
};

fn list(context: &Context) -> Result<String, CliError> {
    let config = context.config()?;
    let mut shown: Vec<Shown> =
        config.environments.iter().map(|(name, environment)| show(&config, name, environment)).collect();
    if shown.is_empty() {
        // The default environment, which is used while none is stored.
        let server = context.server()?;
        let used = Environment::new(&server.name, &server.url);
        shown.push(Shown { selected: true, ..show(&config, &server.name, &used) });
    }
    print::list(context.format(), &LIST, &print::to_items(&shown)?)
}

fn current(context: &Context) -> Result<String, CliError> {
    let (config, server) = (context.config()?, context.server()?);
    let unknown = Environment::new(&server.name, &server.url);
    let shown = show(&config, &server.name, config.environments.get(&server.name).unwrap_or(&unknown));
    print::item(context.format(), &CURRENT, &print::to_item(&shown)?)
}

/// The last signed-in user comes first.
fn show(config: &Config, name: &str, environment: &Environment) -> Shown {
    let mut users: Vec<String> = environment.users.keys().cloned().collect();
    users.sort_by_key(|slug| *slug != environment.selected_user);
    Shown {
        name: name.to_owned(),
        selected: config.selected_environment == name,
        url: environment.url.clone(),
        description: environment.description.clone(),
        users,
    }
}
