//! Stub: replaced by the daemon itself.

use std::path::PathBuf;

use crate::config::Config;

/// What `weir run` may be told beside the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Another eBPF object than the one built in.
    pub object: Option<PathBuf>,
}

/// Stub.
///
/// # Errors
///
/// Always.
pub fn run(_config_path: PathBuf, _options: Options) -> anyhow::Result<()> {
    anyhow::bail!("this build has no daemon")
}

/// Stub.
///
/// # Errors
///
/// Always.
pub fn detach(_config: &Config) -> anyhow::Result<()> {
    anyhow::bail!("this build has no daemon")
}
