//! The daemon: one task owns the core, and the edges around it report to it.
//!
//! `setup` brings everything up in an order in which a failure leaves an earlier run's tables and
//! program as they were; `driver` is the one task; `state` keeps what must survive.

mod driver;
mod replication;
mod replies;
mod setup;
mod signals;
mod state;
mod traffic;
mod vrrp;

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::{config::Config, dataplane, resources};

/// What `weir run` may be told beside the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Another eBPF object than the one built in.
    pub object: Option<PathBuf>,
}

/// Runs the balancer until SIGTERM or SIGINT. Its tables and program stay in the kernel.
///
/// # Errors
///
/// What kept it from starting, in one line that says what to do.
pub fn run(config_path: PathBuf, options: Options) -> anyhow::Result<()> {
    resources::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(async {
        let mut daemon = setup::start(config_path, options).await?;
        daemon.run().await;
        daemon.stop().await;
        anyhow::Ok(())
    });
    // Checks that hang in a system call must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// Takes program, tables and links out of the kernel.
///
/// # Errors
///
/// If the daemon is running, or bpffs refuses.
pub fn detach(config: &Config) -> anyhow::Result<()> {
    let Some(_lock) = state::Lock::take(&config.node.state_dir)? else {
        bail!("`weir run` is running: stop it first, then detach");
    };
    let bpf_dir = &config.node.bpf_dir;
    let _pins = match bpf_dir.exists().then(|| state::Lock::take_pins(bpf_dir)).transpose()? {
        Some(None) => {
            bail!("another `weir run` works with {}: stop it first, then detach", bpf_dir.display())
        }
        lock => lock,
    };
    if !dataplane::detach(bpf_dir)? {
        bail!("nothing is attached below {}", bpf_dir.display());
    }
    Ok(())
}
