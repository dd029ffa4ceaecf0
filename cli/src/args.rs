//! The command tree: names, aliases and help. Commands and aliases are those of the documented `oo`.

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// The command line of OpenOrch.
#[derive(Parser)]
#[command(
    name = "oo",
    version,
    max_term_width = 100,
    after_help = "Environment:\n  \
        OPENORCH_URL    the server, instead of the selected environment (-e sets it aside)\n  \
        OPENORCH_TOKEN  the token to call with (-e and -u set it aside)\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 not permitted, 5 no answer"
)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command takes.
#[derive(Group, Clone, Default)]
pub struct Common {
    /// Use this environment instead of the selected one
    #[arg(short, long, global = true, value_name = "NAME")]
    pub env: Option<String>,
    /// Call as this user, who signed in earlier, instead of the last one
    #[arg(short, long, global = true, value_name = "SLUG")]
    pub user: Option<String>,
    /// How answers are shown
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Subcommand)]
pub enum Command {
    /// The servers that this command line knows
    #[command(subcommand, visible_aliases = ["e", "environment", "environments"], arg_required_else_help = true)]
    Env(EnvCommand),
    /// Sign in; asks for what is left out
    Login {
        slug: Option<String>,
        /// Better left out: arguments are seen by other users and kept by the shell
        password: Option<String>,
    },
    /// Register an account and sign in to it; asks for what is left out
    Register {
        slug: Option<String>,
        /// Better left out: arguments are seen by other users and kept by the shell
        password: Option<String>,
        /// The name to be shown; the slug when left out
        #[arg(long)]
        name: Option<String>,
        /// The code of an invitation, where registration needs one
        #[arg(long, value_name = "CODE")]
        invitation: Option<String>,
    },
    /// Show the account that is signed in
    Whoami,
    /// Print the token of the account that is signed in
    Token,
    /// Running copies of services
    #[command(subcommand, visible_aliases = ["i", "instances"], arg_required_else_help = true)]
    Instance(InstanceCommand),
    /// Machines that run the platform
    #[command(subcommand, visible_aliases = ["n", "nodes"], arg_required_else_help = true)]
    Node(NodeCommand),
    /// Call any operation; without one, list them
    #[command(
        disable_help_subcommand = true,
        override_usage = "oo call [OPTIONS] [OPERATION] [-f FILE] [--key=value]...",
        after_help = "Path, query and body parameters are given by name; `oo call OPERATION --help` shows them.\n\
            `-f FILE` (or `-f -`) gives a body in JSON or YAML.\n\n\
            oo call listInstances --slug=skeleton-svc\n\
            oo call saveDefinition --definition.id=a --definition.image.name=nginx\n\
            oo call saveDefinition -f definition.yaml"
    )]
    Call {
        #[command(subcommand)]
        operation: Option<Operation>,
    },
}

/// An operation of the contract, and all that follows it: its keys are no options of `oo`.
#[derive(Subcommand)]
pub enum Operation {
    #[command(external_subcommand)]
    Named(Vec<String>),
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
    Select { name: String },
    /// Forget an environment and the tokens for it
    #[command(visible_alias = "rm")]
    Remove { name: String },
    /// Show the selected environment
    #[command(visible_alias = "c")]
    Current,
}

#[derive(Subcommand)]
pub enum InstanceCommand {
    /// List the instances of all services
    #[command(visible_alias = "ls")]
    List,
    /// Remove an instance: no request reaches it any more
    #[command(visible_alias = "rm")]
    Remove { id: String },
}

#[derive(Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "ls")]
    List,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Args::command().debug_assert();
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
            "oo nodes ls",
            "oo call listNodes --ids=a --ids=b -f - -o yaml",
            "oo call listNodes --help",
            "oo call",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in ["oo env typo", "oo frobnicate", "oo whoami extra", "oo instance rm", "oo node ls -o csv"] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn everything_after_the_operation_belongs_to_it() {
        let args = Args::try_parse_from(["oo", "call", "x", "--help", "-f", "-", "--env=a"]).unwrap();
        let Some(Command::Call { operation: Some(Operation::Named(words)) }) = args.command else {
            panic!("another command")
        };
        assert_eq!(words, ["x", "--help", "-f", "-", "--env=a"]);
        assert!(args.common.env.is_none());
    }
}
