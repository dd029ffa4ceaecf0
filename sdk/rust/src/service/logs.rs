//! The log of a service: lines on the standard error, as much of them as `OPENORCH_LOG` says.

use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

const VARIABLE: &str = "OPENORCH_LOG";

/// Starts the log, unless the program has one of its own already.
pub(super) fn start() {
    let wish = std::env::var(VARIABLE).unwrap_or_default();
    let targets = if wish.trim().is_empty() { Ok(default()) } else { wish.trim().parse() };
    let (targets, fault) = match targets {
        Ok(targets) => (targets, None),
        Err(error) => (default(), Some(error)),
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false).with_filter(targets);
    let started = tracing_subscriber::registry().with(lines).try_init().is_ok();
    if let Some(error) = fault
        && started
    {
        tracing::warn!("{VARIABLE} is not read: {error}; write it like `info` or `info,my_crate=debug`");
    }
}

fn default() -> Targets {
    Targets::new().with_default(tracing::Level::INFO)
}
