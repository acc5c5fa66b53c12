//! The command line: [`args`] is its grammar, `client` speaks to the daemon, `status`, `events`,
//! `plan` and `explain` turn answers into text.

pub mod args;
pub mod client;
mod commands;
mod doctor;
mod events;
mod explain;
mod log;
mod plan;
mod status;
mod style;
mod time;
mod vrrp;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

/// Runs the command of the command line.
///
/// Exit status: 0 done, 1 refused or failed (standard error says what and what to do), 2 wrong
/// usage, 3 `weir doctor` found something.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        // Whoever read us has seen enough: `weir events | head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere is left to say that standard error is closed.
            let _ = writeln!(io::stderr(), "weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Only our own output fails with a bare [`io::Error`]; what breaks elsewhere is wrapped.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A number of things.
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
