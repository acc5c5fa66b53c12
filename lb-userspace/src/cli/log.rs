//! The daemon's log: to standard error, one line an event.

use std::io;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use super::style::Style;
use crate::dataplane::PACKET_LOG;

/// Starts logging. systemd notes the time of each line itself, and says with `JOURNAL_STREAM` that
/// it does.
pub(super) fn init(level: &str) -> anyhow::Result<()> {
    // Only by its own name: what is told of every packet would drown all that `debug` is for.
    let filter = EnvFilter::builder()
        .parse(format!("{PACKET_LOG}=off,{level}"))
        .with_context(|| format!("--log {level:?} is neither a level nor a list of them"))?;
    let lines =
        fmt::layer().compact().with_writer(io::stderr).with_ansi(Style::of_stderr().colour());
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}
