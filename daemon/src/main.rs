//! `openorch`, the daemon: reads its settings, starts, prints the next steps, and stops on a signal.

use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
};

use clap::{Parser, Subcommand};
use openorch::{
    Running, Settings, StartError, VERSION, maintenance,
    settings::{Flags, secrets_help},
};
use openorch_api::text::without_hidden;
use openorch_chassis::clock::{Clock, SystemClock};
use openorch_services::user::Registration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

// Returns memory to the system after peaks of tunnels or sign-ins; the system allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Identity, registry and gateway for your services, in one program.
///
/// Each setting is a flag, an environment variable and a key of the config file; flags take precedence over variables,
/// and variables over the file. Headings such as `[http]` are the tables of the config file. Secrets have no flags.
#[derive(Parser)]
#[command(name = "openorch", version = VERSION, after_help = secrets_help())]
struct Cli {
    /// Config file (TOML) [OPENORCH_CONFIG]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Manage the admin account while the daemon is stopped
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Write a consistent snapshot of all data to a new file; the daemon may be running
    Backup {
        /// The file to create; it contains secrets and is readable by its owner only
        file: PathBuf,
    },
    /// Restore a backup of SQLite or PostgreSQL into an empty data directory or schema
    Restore {
        /// A file created by `openorch backup`
        file: PathBuf,
    },
    /// Verify the data: the database, and everything derived from its documents
    Check {
        /// Accept a database without its newest writes, such as a copy of the main file without its log; SQLite only
        #[arg(long)]
        accept: bool,
        /// Directory of the database, if it is not the daemon's own: that of a service's datastore
        #[arg(long)]
        folder: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Set an admin's password and end its sessions; reads OPENORCH_ADMIN_PASSWORD, a prompt, or standard input
    ResetPassword {
        /// Slug of the admin
        #[arg(long, default_value = "openorch")]
        slug: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (flags, file) = (cli.flags, cli.config);
    let read_settings = move || Settings::new(flags.clone(), file.as_deref());
    let started = read_settings().and_then(|settings| Ok((Log::start(&settings.daemon.log)?, settings)));
    let (log, settings) = match started {
        Ok(started) => started,
        // The exit code of a usage error, as for an invalid flag.
        Err(error) => return fail(&error, 2),
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&StartError(format!("the runtime cannot start: {error}")), 1),
    };
    let outcome = match cli.command {
        None => runtime.block_on(serve(settings, &log, read_settings)),
        Some(Command::Admin { command: AdminCommand::ResetPassword { slug } }) => {
            runtime.block_on(reset(settings, &slug))
        }
        Some(Command::Backup { file }) => {
            print_result(runtime.block_on(maintenance::backup(&settings, &file, SystemClock.now())))
        }
        Some(Command::Restore { file }) => print_result(runtime.block_on(maintenance::restore(&settings, &file))),
        Some(Command::Check { accept, folder }) => {
            print_result(runtime.block_on(maintenance::check(&settings, folder.as_deref(), accept)))
        }
    };
    // Do not wait for name lookups and password hashes that still run.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn print_result(outcome: Result<String, StartError>) -> Result<(), StartError> {
    let text = outcome?;
    // A closed stdout must not make the command fail.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// The log, whose filter can be replaced.
struct Log(Box<ReplaceFilter>);

type ReplaceFilter = dyn Fn(&str) -> Result<(), StartError>;

impl Log {
    fn start(filter: &str) -> Result<Log, StartError> {
        let (filter, handle) = reload::Layer::new(log_filter(filter)?);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        tracing_subscriber::registry().with(filter).with(lines).init();
        Ok(Log(Box::new(move |filter| {
            let failed = |error| StartError(format!("the log's filter cannot be replaced: {error}"));
            handle.reload(log_filter(filter)?).map_err(failed)
        })))
    }
}

/// Parses a log filter, with levels for everything or per target: `info,openorch_gateway=debug`.
fn log_filter(filter: &str) -> Result<Targets, StartError> {
    // The HTTP/2 library warns about every misbehaving client, so anyone could fill the log; the metrics count these
    // connections. A filter that names the library overrides this.
    let filter = format!("h2=error,{filter}");
    filter.parse::<Targets>().map_err(|error| StartError(format!("OPENORCH_LOG: {error}")))
}

fn fail(error: &StartError, code: u8) -> ExitCode {
    // Messages may quote untrusted files, and control characters would reach the terminal.
    let lines: Vec<String> = error.to_string().lines().map(without_hidden).collect();
    eprintln!("openorch: {}", lines.join("\n"));
    ExitCode::from(code)
}

async fn serve(
    settings: Settings,
    log: &Log,
    read_settings: impl Fn() -> Result<Settings, StartError>,
) -> Result<(), StartError> {
    let scheme = if settings.has_tls() { "https" } else { "http" };
    let asked = settings.listen();
    // Installed first: a signal during the start is not lost, and does not kill the process halfway.
    let mut signals = Signals::new()?;
    let mut running = tokio::select! {
        running = openorch::start(settings, Arc::new(SystemClock)) => running?,
        () = signals.stop() => return Ok(()),
    };
    print_next_steps(&running, scheme);
    if let Some(way_out) = running.restricted_reason() {
        tracing::warn!(
            "OPENORCH_LISTEN is {asked}, but the daemon listens on {} only: {way_out}, then restart it",
            running.address
        );
    }
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = running.ended() => return Err(StartError("the server ended unexpectedly; see the log".into())),
        };
        match asked {
            SignalAction::Stop => break,
            SignalAction::Reload => reload(&running, log, &read_settings),
        }
    }
    tracing::info!("stopping");
    tokio::select! {
        () = running.stop() => {}
        () = signals.stop() => {}
    }
    Ok(())
}

/// Reloads what can change at runtime: the log filter and the TLS certificate. On an error the daemon logs it and keeps
/// the current settings.
fn reload(running: &Running, log: &Log, read_settings: &impl Fn() -> Result<Settings, StartError>) {
    let reloaded = read_settings().and_then(|settings| {
        running.reload(&settings)?;
        log.0(&settings.daemon.log)
    });
    match reloaded {
        Ok(()) => tracing::info!("reloaded the log level and the TLS files"),
        Err(error) => {
            tracing::error!("cannot reload the settings; the current ones stay in effect: {error}")
        }
    }
}

fn print_next_steps(running: &Running, scheme: &str) {
    let mut text = format!("OpenOrch {VERSION} listens on {scheme}://{}\n", running.address);
    if running.is_first_start {
        let mut reachable = running.address;
        if reachable.ip().is_unspecified() {
            reachable.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        text += &first_steps(running, &format!("{scheme}://{reachable}"));
    }
    // A closed stdout must not stop the daemon.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn first_steps(running: &Running, address: &str) -> String {
    let password = if running.default_password.load(Ordering::SeqCst) {
        "with the default password; only loopback is served until you run `oo password`"
    } else {
        "with the password you set"
    };
    let (before, invitation) = match running.registration {
        Registration::Open | Registration::OnThisMachine => (String::new(), ""),
        Registration::Invite => (
            format!(
                "Registration is by invitation: POST {address}/user-svc/invitation as the admin creates a code.\n\n"
            ),
            ", \"invitation\": \"…\"",
        ),
        Registration::Closed => (
            "Registration is closed: start with OPENORCH_REGISTRATION=invite, or open, to let services register.\n\n"
                .into(),
            "",
        ),
    };
    format!(
        "\nThe admin is `openorch`, {password}.\n\n{before}\
         Put a service behind it, in any language:\n\
         \x20 1. POST {address}/user-svc/register     {{\"slug\": \"my-service\", \"name\": \"My Service\", \"password\": \"…\"{invitation}}}\n\
         \x20 2. PUT  {address}/registry-svc/instance {{\"url\": \"http://127.0.0.1:PORT\"}}   with the token of step 1\n\
         \x20 3. curl {address}/my-service/…          reaches it\n\n\
         {address}/docs lists everything else; `oo instance ls` shows what runs.\n"
    )
}

/// The effect of a signal (decision "Stopping").
enum SignalAction {
    Stop,
    Reload,
}

/// SIGTERM and SIGINT stop the daemon. SIGHUP stops it if standard input is a terminal, which has then been closed;
/// otherwise it reloads the settings.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers: from now on signals are queued for [`Signals::next`] instead of ending the process.
    fn new() -> Result<Self, StartError> {
        let listen =
            |kind| signal(kind).map_err(|error: io::Error| StartError(format!("signals cannot be received: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => if io::stdin().is_terminal() { SignalAction::Stop } else { SignalAction::Reload },
        }
    }

    /// Waits for a signal that stops the daemon.
    async fn stop(&mut self) {
        while !matches!(self.next().await, SignalAction::Stop) {}
    }
}

async fn reset(settings: Settings, slug: &str) -> Result<(), StartError> {
    let password = match &settings.secrets.admin_password {
        Some(password) => password.clone(),
        None => read_password(slug)?,
    };
    openorch::reset_admin_password(&settings, Arc::new(SystemClock), slug, &password).await?;
    println!("password of `{slug}` changed; its sessions have ended");
    Ok(())
}

fn read_password(slug: &str) -> Result<String, StartError> {
    let failed = |error: std::io::Error| StartError(format!("cannot read a password: {error}"));
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(format!("New password of `{slug}`: ")).map_err(failed);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
