//! Balancers that share their tables: the `[sync]` of a configuration.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use weir::sync::Key;

use crate::Balancer;

/// Where daemons listen for each other.
pub(crate) const SYNC_PORT: u16 = 9751;

impl Balancer {
    /// The `[sync]` of a configuration with other balancers as peers; this one may be among them.
    /// The key is stored beside the configuration, unless one is there.
    ///
    /// # Errors
    ///
    /// The key cannot be stored.
    pub fn sync_section(&self, key: &Key, balancers: &[Balancer]) -> Result<String> {
        let file = self.namespace().directory().join("sync.key");
        if !file.exists() {
            key.store(&file).context("store the key of [sync]")?;
        }
        let address = |balancer: &Balancer| SocketAddr::from((balancer.address(), SYNC_PORT));
        let own = address(self);
        let others = balancers.iter().map(address).filter(|peer| *peer != own);
        let peers: Vec<String> = others.map(|peer| format!("\"{peer}\"")).collect();
        let (peers, file) = (peers.join(", "), file.display());
        Ok(format!("\n[sync]\nlisten = \"{own}\"\npeers = [{peers}]\nkey_file = \"{file}\"\n"))
    }
}
