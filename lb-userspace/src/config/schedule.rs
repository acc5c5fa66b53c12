//! What health checks and tracked scripts have in common: the program that is run, how often it is
//! asked, and how many answers decide.

use std::time::Duration;

use super::{duration::display_duration, reader::Table, values};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const MOST: Duration = Duration::from_secs(3600);

/// When to ask, and how many answers in a row change what is believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) rise: u32,
    pub(super) fall: u32,
}

/// What is allowed, and the interval where none is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) least_interval: Duration,
    pub(super) least_timeout: Duration,
    pub(super) default_interval: Duration,
}

/// Reads `interval`, `timeout`, `rise` and `fall`. A short interval alone shortens the timeout with
/// it.
pub(super) fn schedule(table: &mut Table<'_>, bounds: Bounds) -> Option<Schedule> {
    let intervals = values::duration(bounds.least_interval..=MOST);
    let interval = table.or("interval", intervals, bounds.default_interval);
    let timeout = table.optional("timeout", values::duration(bounds.least_timeout..=MOST));
    let timeout = if table.has("timeout") {
        timeout
    } else {
        interval.map(|interval| interval.min(DEFAULT_TIMEOUT))
    };
    if let (Some(interval), Some(timeout)) = (interval, timeout)
        && timeout > interval
    {
        let [timeout, interval] = [timeout, interval].map(display_duration);
        let message = format!(
            "timeout: found {timeout:?}, expected at most the interval, which is {interval:?}"
        );
        table.fault("timeout", message);
    }
    let rise = table.or("rise", values::number(1..=1000), DEFAULT_RISE);
    let fall = table.or("fall", values::number(1..=1000), DEFAULT_FALL);
    Some(Schedule { interval: interval?, timeout: timeout?, rise: rise?, fall: fall? })
}

/// Reads a program and its arguments; `example` is such a program.
pub(super) fn program(
    table: &mut Table<'_>,
    key: &'static str,
    example: &str,
) -> Option<Vec<String>> {
    let command = table.list(key, &expected_program(example), values::argument)?;
    absolute(table, key, command)
}

/// The same of one that may be left out, or an empty list, which it is then.
pub(super) fn program_or_none(
    table: &mut Table<'_>,
    key: &'static str,
    example: &str,
) -> Option<Vec<String>> {
    let command = table.list_or_empty(key, &expected_program(example), values::argument)?;
    if command.is_empty() { Some(command) } else { absolute(table, key, command) }
}

fn expected_program(example: &str) -> String {
    format!("a list of the program and its arguments, such as [{example:?}]")
}

fn absolute(table: &Table<'_>, key: &str, command: Vec<String>) -> Option<Vec<String>> {
    if !command.first().is_some_and(|program| program.starts_with('/')) {
        table.fault(key, format!("{key}: the program is named by an absolute path"));
        return None;
    }
    Some(command)
}
