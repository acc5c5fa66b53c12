//! Events by the names that command lines use.

use anyhow::{Result, anyhow};

/// The one of `all` with this name.
///
/// # Errors
///
/// The names that there are.
pub(crate) fn by_name<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T> {
    all.iter().copied().find(|each| name(*each) == text).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|each| name(*each)).collect();
        anyhow!("no such event; there are {}", names.join(", "))
    })
}
