//! What is said of what happened.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Result, bail};

/// What is judged: every line is shown, and with `--check` every line must hold.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    failed: Vec<String>,
}

// === impl Verdict ===

impl Verdict {
    /// Says whether something is as it should be.
    pub(super) fn check(&mut self, holds: bool, what: &str) {
        println!("  [{}] {what}", if holds { "ok" } else { "FAILED" });
        if !holds {
            self.failed.push(what.to_owned());
        }
    }

    /// Ends it: with `check`, an error unless everything was.
    pub(super) fn conclude(self, check: bool) -> Result<()> {
        io::stdout().flush()?;
        if self.failed.is_empty() {
            println!("\nall went as it should");
        } else if check {
            bail!("not as it should: {}", self.failed.join("; "));
        }
        Ok(())
    }
}

/// Milliseconds.
pub(super) struct Millis(pub(super) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ms", self.0.as_secs_f64() * 1e3)
    }
}
