//! Waiting for a condition, with a limit.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Waits until `condition` holds; `state` tells how things are when it does not.
pub(crate) fn until(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
    state: impl FnOnce() -> Result<String>,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}; {}", state()?);
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Waits until `condition` holds, for a test.
///
/// # Panics
///
/// It does not within the limit.
pub fn eventually(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    if let Err(error) = until(limit, what, || Ok(condition()), || Ok(String::new())) {
        panic!("{error}");
    }
}
