//! Which server a command calls, and as which user: flags take precedence over environment variables, and those over
//! stored settings. A token is sent only to the server that issued it. All calls go through here, so that waiting,
//! `--timeout` and hints are the same everywhere.

use openorch_sdk::{
    Client, ClientFactory, Error, Response, SdkSettings,
    api::{
        Access, Effect, Operation, RequestParts,
        error::{access, request},
        op,
    },
};

use crate::{
    args::{Common, Format},
    config::{Config, ConfigFile},
    error::CliError,
    progress::Progress,
};

/// Used while no environment is configured.
pub const DEFAULT_NAME: &str = "local";
pub const DEFAULT_URL: &str = "http://127.0.0.1:58231";

pub struct Context {
    pub common: Common,
    pub file: ConfigFile,
    pub progress: Progress,
    variables: SdkSettings,
}

/// A server, by the name under which its tokens are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub name: String,
    pub url: String,
}

/// A token and its origin.
#[derive(Clone, PartialEq)]
pub struct Token {
    pub text: String,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `OPENORCH_TOKEN`.
    Variable,
    /// The stored token of this user.
    Stored(String),
}

/// A client and the identity it calls with.
pub struct Connection {
    pub client: Client,
    pub caller: Option<Source>,
}

impl Context {
    pub fn new(common: Common, file: ConfigFile) -> Context {
        Context { common, file, progress: Progress::default(), variables: SdkSettings::from_env() }
    }

    /// The requested format; a table by default.
    pub fn format(&self) -> Format {
        self.common.output.unwrap_or(Format::Table)
    }

    /// The stored settings. Scripts that configure everything through variables need no home directory.
    pub fn config(&self) -> Result<Config, CliError> {
        let needs_none = self.variables.url.is_some() && self.common.env.is_none() && !self.file.has_path();
        if needs_none { Ok(Config::default()) } else { self.file.load() }
    }

    pub fn server(&self) -> Result<Server, CliError> {
        server(&self.common, &self.variables, &self.config()?)
    }

    /// A connection without a token.
    pub fn anonymous(&self) -> Result<Connection, CliError> {
        Ok(Connection { client: ClientFactory::new(&self.server()?.url)?.client(), caller: None })
    }

    /// A connection with the user's token, if there is one.
    pub fn connection_if_signed_in(&self) -> Result<Connection, CliError> {
        let config = self.config()?;
        let server = server(&self.common, &self.variables, &config)?;
        let client = ClientFactory::new(&server.url)?.client();
        match token(&self.common, &self.variables, &config, &server)? {
            Some(token) => Ok(Connection { client: client.with_token(&token.text)?, caller: Some(token.source) }),
            None => Ok(Connection { client, caller: None }),
        }
    }

    /// A connection with the user's token.
    pub fn connection(&self) -> Result<Connection, CliError> {
        let token = self.token()?;
        Ok(Connection { client: self.anonymous()?.client.with_token(&token.text)?, caller: Some(token.source) })
    }

    /// The token to use, if there is one.
    pub fn token_if_any(&self) -> Result<Option<Token>, CliError> {
        let config = self.config()?;
        let server = server(&self.common, &self.variables, &config)?;
        token(&self.common, &self.variables, &config, &server)
    }

    pub fn has_token_variable(&self) -> bool {
        self.variables.token.is_some()
    }

    pub fn token(&self) -> Result<Token, CliError> {
        let config = self.config()?;
        let server = server(&self.common, &self.variables, &config)?;
        token(&self.common, &self.variables, &config, &server)?.ok_or_else(|| {
            let others = config.environments.get(&server.name).is_some_and(|known| !known.users.is_empty());
            let hint = if others { "run `oo login`, or choose a user with `oo switch`" } else { "run `oo login`" };
            CliError::NotSignedIn(format!("not signed in to `{}` ({}); {hint}", server.name, server.url))
        })
    }

    /// The connection that an operation requires.
    pub fn connection_for(&self, row: &Operation) -> Result<Connection, CliError> {
        match row.access {
            Access::Public => self.connection_if_signed_in(),
            _ => self.connection(),
        }
    }

    /// Calls an operation with prepared parts.
    pub async fn send(
        &self,
        connection: &Connection,
        row: &'static Operation,
        parts: &RequestParts,
    ) -> Result<Response, CliError> {
        // A server may close the connection on an oversized body before its error can be read.
        let size = parts.body.as_ref().map_or(0, |body| body.to_string().len());
        let limit = row.max_body_bytes.unwrap_or(op::DEFAULT_MAX_BODY_BYTES);
        if size > limit {
            return Err(CliError::Usage(format!("the body has {size} bytes; {} accepts at most {limit}", row.id)));
        }
        let writes = (row.effect() == Effect::Write).then_some(row.id);
        self.await_answer(connection, writes, connection.client.call_operation(row, parts)).await
    }

    /// Waits for an answer, up to `--timeout`; `writes` names the call if it changes something. Adds a hint to an error
    /// where only the command line knows the remedy.
    pub async fn await_answer<T>(
        &self,
        connection: &Connection,
        writes: Option<&str>,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, CliError> {
        let url = connection.client.url();
        let call = self.progress.wait(url, writes, call);
        let answer = match self.common.timeout {
            Some(patience) => tokio::time::timeout(patience, call).await.map_err(|_| {
                let seconds = patience.as_secs_f64();
                CliError::NoAnswer(format!("no answer from {url} within {seconds} s; `--timeout` changes the limit"))
            })?,
            None => call.await,
        };
        answer.map_err(|error| self.with_hint(error, connection.caller.as_ref()))
    }

    /// The error with a hint, where only the command line knows the remedy.
    pub fn with_hint(&self, error: Error, caller: Option<&Source>) -> CliError {
        let hint = match &error {
            Error::Unreachable { .. } => {
                "is the daemon running there? `oo doctor` diagnoses; `oo env select` selects another environment"
                    .to_owned()
            }
            // By code: services behind the gateway and `isAuthorized` also answer 401, with another meaning.
            refusal if refusal.is(&access::SESSION_ENDED) || refusal.is(&access::INVALID_TOKEN) => match caller {
                Some(Source::Variable) => "the token came from OPENORCH_TOKEN; replace it".to_owned(),
                Some(Source::Stored(slug)) => format!("sign in again with `{} {slug}`", self.oo_command("login")),
                None => return error.into(),
            },
            refusal if refusal.is(&request::NO_SUCH_OPERATION) => {
                "this daemon does not support it; `oo doctor` compares the versions".to_owned()
            }
            _ => return error.into(),
        };
        CliError::from(error).with_hint(hint)
    }

    /// A command line of `oo` that reaches the same environment.
    pub fn oo_command(&self, words: &str) -> String {
        match &self.common.env {
            Some(name) => format!("oo -e {name} {words}"),
            None => format!("oo {words}"),
        }
    }
}

fn server(common: &Common, variables: &SdkSettings, config: &Config) -> Result<Server, CliError> {
    if let Some(name) = &common.env {
        return named(config, name).ok_or_else(|| not_found(name));
    }
    if let Some(url) = &variables.url {
        // Normalized as the client does it, so that a trailing slash makes no difference.
        let url = openorch_sdk::server_url(url)?;
        let here = |name: &&String| config.environments.get(*name).is_some_and(|known| same_url(&known.url, &url));
        let known = Some(&config.selected_environment).filter(here).or_else(|| config.environments.keys().find(here));
        let unnamed = || url.split_once("://").map_or(url.as_str(), |(_, host)| host).to_owned();
        return Ok(Server { name: known.cloned().unwrap_or_else(unnamed), url });
    }
    if config.environments.is_empty() {
        return Ok(Server { name: DEFAULT_NAME.into(), url: DEFAULT_URL.into() });
    }
    if config.selected_environment.is_empty() {
        return Err(CliError::Usage(
            "no environment is selected; list them with `oo env ls` and choose one with `oo env select`".into(),
        ));
    }
    named(config, &config.selected_environment).ok_or_else(|| {
        CliError::NotFound(format!(
            "the selected environment `{}` no longer exists; list them with `oo env ls` and choose one with `oo env select`",
            config.selected_environment
        ))
    })
}

fn named(config: &Config, name: &str) -> Option<Server> {
    match config.environments.get(name) {
        Some(known) => Some(Server { name: name.to_owned(), url: known.url.clone() }),
        None if name == DEFAULT_NAME && config.environments.is_empty() => {
            Some(Server { name: DEFAULT_NAME.into(), url: DEFAULT_URL.into() })
        }
        None => None,
    }
}

pub fn not_found(name: &str) -> CliError {
    CliError::NotFound(format!("environment `{name}` not found; `oo env ls` lists all"))
}

pub fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/').eq_ignore_ascii_case(other.trim_end_matches('/'))
}

fn token(
    common: &Common,
    variables: &SdkSettings,
    config: &Config,
    server: &Server,
) -> Result<Option<Token>, CliError> {
    // A flag is more specific than a variable exported earlier, and the variable's token belongs to the server it was
    // set for.
    if common.env.is_none()
        && common.user.is_none()
        && let Some(token) = &variables.token
    {
        return Ok(Some(Token { text: token.clone(), source: Source::Variable }));
    }
    let environment = config.environments.get(&server.name).filter(|known| same_url(&known.url, &server.url));
    let stored = |slug: &str| {
        let text = &environment?.users.get(slug)?.token;
        let token = Token { text: text.clone(), source: Source::Stored(slug.to_owned()) };
        Some(token).filter(|token| !token.text.is_empty())
    };
    match &common.user {
        Some(slug) => match stored(slug) {
            Some(token) => Ok(Some(token)),
            None => Err(CliError::NotSignedIn(format!(
                "`{slug}` is not signed in to `{}` on this machine; run `oo login {slug}`",
                server.name
            ))),
        },
        None => Ok(environment.and_then(|known| stored(&known.selected_user))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn known() -> Config {
        let mut config = Config::default();
        config.selected_environment = "a".into();
        for (name, url) in [("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2")] {
            let mut environment = Environment::new(name, url);
            environment.remember("other", format!("{name}-other"));
            environment.remember("me", format!("{name}-me"));
            config.environments.insert(name.into(), environment);
        }
        config
    }

    fn resolve(config: &Config, env: &str, user: &str, url: &str, given: &str) -> Result<(String, String), CliError> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let common = Common { env: some(env), user: some(user), ..Common::default() };
        let variables = SdkSettings { url: some(url), token: some(given) };
        let server = server(&common, &variables, config)?;
        let token = token(&common, &variables, config, &server)?.map(|token| token.text).unwrap_or_default();
        Ok((server.url, token))
    }

    #[test]
    fn flags_win_over_variables_and_those_over_what_is_stored() {
        let (a, b, c) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        for (env, user, url, given, want) in [
            ("", "", "", "", Some((a, "a-me"))),
            ("b", "", "", "", Some((b, "b-me"))),
            ("", "other", "", "", Some((a, "a-other"))),
            ("b", "other", "", "", Some((b, "b-other"))),
            ("", "", b, "", Some((b, "b-me"))),
            ("", "", "http://127.0.0.1:2/", "", Some((b, "b-me"))),
            ("", "", c, "", Some((c, ""))),
            ("", "", c, "var", Some((c, "var"))),
            ("", "", "", "var", Some((a, "var"))),
            ("b", "", c, "var", Some((b, "b-me"))),
            ("", "other", "", "var", Some((a, "a-other"))),
            ("", "stranger", "", "", None),
            ("", "me", c, "", None),
            ("c", "", "", "", None),
            ("", "", "no-url", "", None),
        ] {
            let got = resolve(&known(), env, user, url, given).ok();
            let want = want.map(|(url, token)| (url.to_owned(), token.to_owned()));
            assert_eq!(got, want, "-e {env} -u {user} OPENORCH_URL={url} OPENORCH_TOKEN={given}");
        }
    }

    #[test]
    fn without_any_environment_there_is_a_local_one() {
        let nothing = Config::default();
        assert_eq!(resolve(&nothing, "", "", "", "").ok(), Some((DEFAULT_URL.into(), String::new())));
        assert_eq!(resolve(&nothing, "local", "", "", "").ok(), Some((DEFAULT_URL.into(), String::new())));
        assert!(resolve(&nothing, "prod", "", "", "").is_err());
    }

    #[test]
    fn a_selection_that_is_gone_is_told() {
        let mut config = known();
        config.selected_environment = "gone".into();
        assert!(matches!(resolve(&config, "", "", "", ""), Err(CliError::NotFound(text)) if text.contains("`gone`")));
        config.selected_environment = String::new();
        assert!(matches!(resolve(&config, "", "", "", ""), Err(CliError::Usage(_))));
    }
}
