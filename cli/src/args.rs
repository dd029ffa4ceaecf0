//! The fixed part of the command tree: names, aliases and help of the documented `oo`. The groups (`oo instance …`)
//! come from the table in `resource/table.rs`.

use clap::{Args as Group, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{completion::Shell, monitor, resource};

/// The command line of OpenOrch.
#[derive(Parser)]
#[command(
    name = "oo",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Environment:\n  \
        OPENORCH_URL    the server, overrides the selected environment (-e takes precedence)\n  \
        OPENORCH_TOKEN  the token to use (-e and -u take precedence)\n  \
        NO_COLOR        disables colours, even on a terminal\n\n\
        Exit codes: 0 success, 1 failure, 2 usage error, 3 not found, 4 not permitted, 5 no answer, 130 interrupted by Ctrl-C\n\n\
        Start with `oo login`, then `oo instance ls`; `oo doctor` diagnoses problems."
)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Heading of the options that every command takes, printed after its own options.
const COMMON: &str = "Common options";

/// Options of every command.
#[derive(Group, Clone, Default)]
pub struct Common {
    /// Use this environment instead of the selected one
    #[arg(short, long, global = true, value_name = "NAME", help_heading = COMMON)]
    pub env: Option<String>,
    /// Call as this signed-in user instead of the selected one
    #[arg(short, long, global = true, value_name = "SLUG", help_heading = COMMON)]
    pub user: Option<String>,
    /// Output format: table, wide (more columns), json, yaml or name (names or ids only)
    #[arg(short, long, global = true, value_name = "FORMAT", hide_possible_values = true, help_heading = COMMON)]
    pub output: Option<Format>,
    /// Request timeout in seconds
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, help_heading = COMMON)]
    pub timeout: Option<std::time::Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Subcommand)]
pub enum Command {
    /// Manage environments: the servers that this command line knows
    #[command(subcommand, visible_aliases = ["e", "environment", "environments"], arg_required_else_help = true)]
    Env(EnvCommand),
    /// Sign in; prompts for whatever is omitted
    Login {
        slug: Option<String>,
        /// Better omitted: arguments are visible to other users and stay in shell history
        password: Option<String>,
        /// The app (tenant) to sign in to, by its host; the default app if omitted
        #[arg(long, value_name = "HOST")]
        app: Option<String>,
    },
    /// End the session; its token is rejected from then on
    Logout {
        /// The user to sign out; the selected one if omitted
        slug: Option<String>,
        /// End all sessions of the account on all devices, except the session that programs share
        #[arg(long, conflicts_with = "forget")]
        all: bool,
        /// Forget the token locally without calling the server; the session stays valid
        #[arg(long)]
        forget: bool,
    },
    /// Switch to another signed-in user; without SLUG, list them
    #[command(visible_alias = "su", alias = "use")]
    Switch { slug: Option<String> },
    /// Show the signed-in account
    Whoami,
    /// Print the token of the signed-in account
    Token,
    /// Register an account and sign in to it; prompts for whatever is omitted
    Register {
        slug: Option<String>,
        /// Better omitted: arguments are visible to other users and stay in shell history
        password: Option<String>,
        /// Display name; the slug if omitted
        #[arg(long)]
        name: Option<String>,
        /// Invitation code, if registration requires one
        #[arg(long, value_name = "CODE")]
        invitation: Option<String>,
        /// The app (tenant) to register in, by its host; the default app if omitted
        #[arg(long, value_name = "HOST")]
        app: Option<String>,
    },
    /// Change your password; prompts for the current and the new one
    #[command(visible_alias = "passwd")]
    Password,
    /// GET any path; keys become the query
    #[command(
        disable_help_subcommand = true,
        override_usage = "oo get [OPTIONS] PATH [?key=value]... [--key=value]...",
        after_help = GET_HELP
    )]
    Get(RawArgs),
    /// POST to any path; keys become the JSON body
    #[command(disable_help_subcommand = true, override_usage = raw_usage("post"), after_help = BODY_HELP)]
    Post(BodyArgs),
    /// PUT to any path; keys become the JSON body
    #[command(disable_help_subcommand = true, override_usage = raw_usage("put"), after_help = BODY_HELP)]
    Put(BodyArgs),
    /// DELETE any path; keys become the JSON body
    #[command(disable_help_subcommand = true, override_usage = raw_usage("delete"), after_help = BODY_HELP)]
    Delete(BodyArgs),
    /// Call an operation by id; without one, list all
    #[command(
        disable_help_subcommand = true,
        override_usage = "oo call [OPTIONS] [OPERATION] [-f FILE] [--key=value]...",
        after_help = CALL_HELP
    )]
    Call {
        /// Read the body from this file, JSON or YAML; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        file: Option<String>,
        /// Print the request for curl instead of sending it
        #[arg(long)]
        curl: bool,
        #[command(subcommand)]
        operation: Option<Words>,
    },
    /// Call many operations in a few requests: one call per input line, one answer per output line
    #[command(after_help = BATCH_HELP)]
    Batch {
        /// The file with the calls; `-` is standard input
        #[arg(value_name = "FILE")]
        file: String,
        /// Skip the calls after the first one that fails
        #[arg(long)]
        stop: bool,
    },
    /// Save all data of the running daemon in a new local file; `openorch restore` reads it
    Backup {
        /// The file to create; it contains secrets and is readable by its owner only
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,
    },
    /// Show requests to the daemon and its services as they end, until Ctrl-C
    #[command(after_help = MONITOR_HELP)]
    Monitor(monitor::Filters),
    /// Diagnose problems: settings, daemon, versions, clock, token
    Doctor,
    /// Print the version
    Version,
    /// Print the completion script of a shell
    #[command(after_help = COMPLETION_HELP)]
    Completion { shell: Shell },
    /// Print the manual of `oo` or of one of its commands, for `man -l -`
    Man {
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
        /// Write the manuals of all commands into this directory
        #[arg(short, long, value_name = "DIRECTORY", conflicts_with = "words")]
        directory: Option<std::path::PathBuf>,
    },
    /// Called by the completion scripts: the words so far; the last one is unfinished
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Options of a raw call with a body.
#[derive(Group)]
pub struct BodyArgs {
    /// Read the body from this file, JSON or YAML, or with another Content-Type (-H) as it is; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub raw: RawArgs,
}

/// Options of any raw call. They precede the path; everything after the path is input.
#[derive(Group)]
pub struct RawArgs {
    /// Send this header too
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Print the request for curl instead of sending it
    #[arg(long)]
    pub curl: bool,
    #[command(subcommand)]
    pub request: Option<Words>,
}

/// A word and everything after it, which is input and no option of `oo`.
#[derive(Subcommand)]
pub enum Words {
    #[command(external_subcommand)]
    Given(Vec<String>),
}

impl Words {
    /// The words; empty if there are none.
    pub fn or_empty(given: Option<Words>) -> Vec<String> {
        match given {
            Some(Words::Given(words)) => words,
            None => Vec::new(),
        }
    }
}

#[derive(Subcommand)]
pub enum EnvCommand {
    /// Add an environment and select it, or change one
    Add {
        name: String,
        /// For example http://127.0.0.1:58231
        url: String,
        description: Option<String>,
    },
    /// List the environments
    #[command(name = "list", visible_alias = "ls")]
    List,
    /// Use this environment from now on
    #[command(visible_alias = "s")]
    Select {
        #[arg(value_name = "NAME")]
        environment: String,
    },
    /// Forget an environment and the tokens for it
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(value_name = "NAME")]
        environment: String,
    },
    /// Show the selected environment
    #[command(visible_alias = "c")]
    Current,
}

/// The whole command tree, including the groups.
pub fn command() -> clap::Command {
    Args::command().subcommands(resource::commands())
}

/// Parses a duration in seconds, 0.001 to 86400.
pub fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let duration = text.parse().ok().filter(|count| (0.001..=86_400.0).contains(count));
    let span = duration.and_then(|count| std::time::Duration::try_from_secs_f64(count).ok());
    span.ok_or_else(|| "expected a number of seconds from 0.001 to 86400".into())
}

fn raw_usage(method: &str) -> String {
    format!("oo {method} [OPTIONS] PATH [?key=value]... [--key=value]...")
}

macro_rules! raw_help {
    ($first:literal, $($example:literal),+) => {
        concat!(
            "Options of `oo` precede the path; everything after it is input:\n",
            $first,
            "  --key:=JSON     a JSON value: 7.5, null, [\"one\"], {\"a\": 1}\n",
            "  --key:s=text    text, never parsed\n",
            "  --key@=FILE     the content of a file as text\n",
            "  ?key=value      a query parameter",
            $("\n\n", $example),+
        )
    };
}

const GET_HELP: &str = raw_help!(
    "  --key=value     a query parameter, like ?key=value\n",
    "oo get /registry-svc/instances --slug=skeleton-svc\noo get '/skeleton-svc/hello?name=x'"
);

const BODY_HELP: &str = raw_help!(
    "  --key=value     an integer, true, false, or else text\n",
    "`--a.b=1` and `--a-b=1` are {\"a\": {\"b\": 1}}: a key with a dot is split at dots only. A repeated key\n\
     becomes a list. Keys override those in the body of `-f`; without either the body is {}.",
    "oo put /registry-svc/instance --url=http://127.0.0.1:9311\n\
     oo post /user-svc/invitation --uses=2 --roleIds:='[\"user-svc:user\"]'\n\
     oo put -f definition.yaml /registry-svc/definition"
);

const CALL_HELP: &str = "\
Path, query and body parameters are passed by name; `oo call OPERATION --help` shows them. Each value has the type that
the operation declares; `--key:=JSON`, `--key:s=text` and `--key@=FILE` set it explicitly. `-f FILE` (or `-f -`) reads
a body in JSON or YAML. `-e`, `-u`, `-o` and `-f` may also follow the operation.

oo call listInstances --slug=skeleton-svc
oo call saveDefinition --definition.id=a --definition.image.name=nginx
oo call saveDefinition -f definition.yaml";

const BATCH_HELP: &str = r#"Each line is {"operation": ID, "input": {...}}, with the keys that `oo call OPERATION --help` shows. The
answer is {"status": 200, "body": ...}, or the status with `error` and `code`. The exit code is 1 if a call failed.

echo '{"operation": "listInstances", "input": {"slug": "skeleton-svc"}}' | oo batch -"#;

const MONITOR_HELP: &str = "\
`-o json` writes one object per line; `-o wide` adds request ids and operation ids. Queries, tokens and bodies are never
shown. A lost connection is reopened; requests in between are not shown.

oo monitor --service skeleton-svc --status 5xx
oo monitor -o json | jq .path";

const COMPLETION_HELP: &str = "\
bash:  source <(oo completion bash)      in ~/.bashrc
zsh:   source <(oo completion zsh)       in ~/.zshrc, after compinit
fish:  oo completion fish | source       in ~/.config/fish/config.fish";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let matches = command().try_get_matches_from(line.split(' '))?;
        <Args as clap::FromArgMatches>::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn documented_forms_are_understood() {
        for line in [
            "oo env add local http://127.0.0.1:58231 mine",
            "oo environments ls",
            "oo e s local",
            "oo env c",
            "oo env rm local",
            "oo login",
            "oo login openorch changeme",
            "oo instance ls",
            "oo i list -e prod -u me -o json",
            "oo -e prod instances rm inst_1",
            "oo nodes ls -w",
            "oo def save some.yaml",
            "oo call listNodes --ids=a --ids=b -f - -o yaml",
            "oo call listNodes --help",
            "oo call",
            "oo get /x --a=b",
            "oo -e prod delete -u me /x",
            "oo su me",
        ] {
            assert!(command().try_get_matches_from(line.split(' ')).is_ok(), "{line}");
        }
        let bad = [
            "oo env typo",
            "oo frobnicate",
            "oo whoami extra",
            "oo instance rm",
            "oo node ls -o csv",
            "oo get -f - /x",
            "oo get -x /",
        ];
        for line in
            bad.into_iter().chain(["oo --timeout 0 whoami", "oo --timeout x whoami", "oo logout --all --forget"])
        {
            assert!(command().try_get_matches_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn everything_after_the_operation_or_the_path_belongs_to_it() {
        let args = parse("oo call x --help -f - --env=a").unwrap();
        let Command::Call { operation, file, .. } = args.command else { panic!("another command") };
        assert_eq!(Words::or_empty(operation), ["x", "--help", "-f", "-", "--env=a"]);
        assert!(args.common.env.is_none() && file.is_none());

        let args = parse("oo post -e prod -f - /x --help --env=a --timeout").unwrap();
        let Command::Post(BodyArgs { file, raw }) = args.command else { panic!("another command") };
        assert_eq!(Words::or_empty(raw.request), ["/x", "--help", "--env=a", "--timeout"]);
        assert_eq!((args.common.env.as_deref(), file.as_deref()), (Some("prod"), Some("-")));
    }
}
