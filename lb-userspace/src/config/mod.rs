//! The configuration file: what it means ([`model`]) and how it is read.

pub mod model;

pub use model::*;

/// Stub.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

/// Stub.
///
/// # Errors
///
/// Always.
pub fn load(path: &std::path::Path) -> Result<Config, LoadError> {
    std::fs::read_to_string(path)
        .map_err(|error| LoadError(format!("{}: {error}", path.display())))?;
    Err(LoadError(format!("{}: this build cannot read it", path.display())))
}
