//! Logging of a service to standard error, filtered by `OPENORCH_LOG`.

use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

const VARIABLE: &str = "OPENORCH_LOG";

/// Installs the log subscriber, unless the program has already installed one.
pub(super) fn init() {
    let wish = std::env::var(VARIABLE).unwrap_or_default();
    let targets = if wish.trim().is_empty() { Ok(default()) } else { wish.trim().parse() };
    let (targets, invalid_filter) = match targets {
        Ok(targets) => (targets, None),
        Err(error) => (default(), Some(error)),
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false).with_filter(targets);
    let started = tracing_subscriber::registry().with(lines).try_init().is_ok();
    if let Some(error) = invalid_filter
        && started
    {
        tracing::warn!("{VARIABLE} is invalid and ignored: {error}; use a filter like `info` or `info,my_crate=debug`");
    }
}

fn default() -> Targets {
    Targets::new().with_default(tracing::Level::INFO)
}
