//! A virtual router, as keepalived and weir are told of it: one description, so that a comparison
//! of the two is one of equals.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use anyhow::Result;

use crate::{Lab, Namespace};

/// The name of the instance in configurations.
pub const INSTANCE: &str = "front";
/// Its virtual router id.
pub const ROUTER_ID: u8 = 51;

const INTERFACE: &str = "eth0";

/// What all routers that share the lab's VIP agree on.
#[derive(Debug, Clone)]
pub struct Vrrp {
    version: u8,
    interval: Duration,
    password: Option<String>,
    ipv6: bool,
    unicast: bool,
    preempt: bool,
}

/// One of the routers.
#[derive(Debug, Clone)]
pub struct Member {
    vrrp: Vrrp,
    namespace: Namespace,
    own: IpAddr,
    peers: Vec<IpAddr>,
    vip: IpAddr,
    priority: u8,
}

// === impl Vrrp ===

impl Vrrp {
    /// Version 3 over IPv4 by multicast, with preemption, an advert every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { version: 3, interval, password: None, ipv6: false, unicast: false, preempt: true }
    }

    /// Version 2 with a simple password. Its intervals are whole seconds.
    #[must_use]
    pub fn version2(mut self, password: &str) -> Self {
        self.version = 2;
        self.password = Some(password.to_owned());
        self
    }

    /// For the IPv6 VIP.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Adverts go to each peer alone.
    #[must_use]
    pub fn unicast(mut self) -> Self {
        self.unicast = true;
        self
    }

    /// A router of higher priority lets a master be.
    #[must_use]
    pub fn without_preemption(mut self) -> Self {
        self.preempt = false;
        self
    }

    /// Between two adverts.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The VIP of the lab.
    pub fn vip(&self, lab: &Lab) -> IpAddr {
        if self.ipv6 { lab.vip6(0) } else { lab.vip(0) }.ip()
    }

    /// The lab's balancer number `index` (from 0) as a router of a priority.
    ///
    /// # Panics
    ///
    /// The lab has fewer balancers.
    pub fn member(&self, lab: &Lab, index: usize, priority: u8) -> Member {
        let addresses = lab.balancers().iter().map(|balancer| -> IpAddr {
            if self.ipv6 { balancer.address6().into() } else { balancer.address().into() }
        });
        let mut peers: Vec<_> = addresses.collect();
        let own = peers.remove(index);
        let vip = self.vip(lab);
        let namespace = lab.balancers()[index].namespace().clone();
        Member { vrrp: self.clone(), namespace, own, peers, vip, priority }
    }
}

// === impl Member ===

impl Member {
    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Whether its machine has the VIP.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn has_vip(&self) -> Result<bool> {
        self.namespace.has_address(self.vip)
    }

    /// The `vrrp_instance` of a `keepalived.conf`, with more lines of its own.
    pub(crate) fn keepalived(&self, more: &str) -> String {
        let Vrrp { version, interval, password, unicast, preempt, .. } = &self.vrrp;
        let mut text = format!(
            "vrrp_instance {INSTANCE} {{\n state BACKUP\n interface {INTERFACE}\n \
             virtual_router_id {ROUTER_ID}\n priority {}\n version {version}\n advert_int {}\n \
             virtual_ipaddress {{ {} }}\n{more}",
            self.priority,
            interval.as_secs_f64(),
            self.vip_with_prefix(),
        );
        // Writing to a string cannot fail.
        if let Some(password) = password {
            let _ = writeln!(text, " authentication {{ auth_type PASS\n auth_pass {password} }}");
        }
        if *unicast {
            let peers: Vec<_> = self.peers.iter().map(|peer| format!("  {peer}\n")).collect();
            let _ = writeln!(
                text,
                " unicast_src_ip {}\n unicast_peer {{\n{} }}",
                self.own,
                peers.concat()
            );
        }
        if !preempt {
            text.push_str(" nopreempt\n");
        }
        text + "}\n"
    }

    /// The `[[vrrp]]` of a `weir.toml`.
    pub(crate) fn weir(&self) -> String {
        let Vrrp { version, interval, password, unicast, preempt, .. } = &self.vrrp;
        let mut text = format!(
            "\n[[vrrp]]\nname = \"{INSTANCE}\"\ninterface = \"{INTERFACE}\"\n\
             router_id = {ROUTER_ID}\nversion = {version}\npriority = {}\ninterval = \"{}ms\"\n\
             preempt = {preempt}\naddresses = [\"{}\"]\n",
            self.priority,
            interval.as_millis(),
            self.vip_with_prefix(),
        );
        // Writing to a string cannot fail.
        if let Some(password) = password {
            let _ = writeln!(text, "password = \"{password}\"");
        }
        if *unicast {
            let peers: Vec<_> = self.peers.iter().map(|peer| format!("\"{peer}\"")).collect();
            let _ = writeln!(text, "unicast_peers = [{}]", peers.join(", "));
        }
        text
    }

    fn vip_with_prefix(&self) -> String {
        format!("{}/{}", self.vip, if self.vip.is_ipv4() { 24 } else { 64 })
    }
}
