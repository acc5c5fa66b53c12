//! The network: who there is, who is plugged in where, and with which addresses.
//!
//! With one network, everyone is on it and backends answer clients directly:
//!
//! ```text
//!   client .10     balancer .2 (VIP .100)     b1 .21 (VIP on lo)   b2 .22 …
//!      └───────────────┴──── front 10.77.0.0/24 ────┴─────────────────┘
//! ```
//!
//! With two, a balancer receives on `eth0` and sends on `eth1`, and
//! backends answer through a router, which is not the balancer:
//!
//! ```text
//!   client .10     balancer eth0 .2 (VIP .100)    balancer eth1 .2     b1 .21 (VIP on lo)
//!      └──────┬───────┴─ front 10.77.0.0/24              └─────┬───────────┴─ back 10.78.0.0/24
//!             └──────────────── router .1 ─────────────────────┘
//! ```
//!
//! Routed, it is the same without `eth1`: all that a balancer sends to a backend goes by the router.
//!
//! IPv6 is the same with `fd77::/64` and `fd78::/64`, the last group reading like the last number.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::Namespace;

/// The client's addresses.
pub(crate) const CLIENT4: Ipv4Addr = Network::Front.v4(CLIENT);
pub(crate) const CLIENT6: Ipv6Addr = Network::Front.v6(CLIENT);
/// The VIP.
pub(crate) const VIP4: Ipv4Addr = Network::Front.v4(VIP);
pub(crate) const VIP6: Ipv6Addr = Network::Front.v6(VIP);

/// The last number of everyone's address; balancers and backends count up from theirs.
const ROUTER: u8 = 1;
const BALANCERS: u8 = 2;
const CLIENT: u8 = 10;
const BACKENDS: u8 = 21;
const VIP: u8 = 100;

const CLIENT_ROLE: &str = "client";

/// Before any interface exists, so that all have them.
pub(crate) const SETTINGS: [(&str, &str); 8] = [
    // Backends' answers have the VIP as their source, which no route back to them mentions.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // A router that tells of a shorter way would change the network under test.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // "Port unreachable" is an answer that tests wait for: no limit to its rate, which on some
    // kernels all namespaces share.
    ("ipv4/icmp_ratemask", "0"),
    // Ten thousand connections in a row.
    ("ipv4/ip_local_port_range", "10000 65000"),
];

/// A flow's packets arrive one after another, as through one queue of a network card. With a queue
/// a CPU, a frame that a program sends back goes into that of the CPU it ran on, which changes under
/// load. Then two CPUs look at the end of a handshake and at the request behind it at once, and Linux
/// up to 6.18 may find neither the half-open connection nor the open one, and reset it.
const ONE_QUEUE: &str = "numtxqueues 1 numrxqueues 1";

/// Only the balancer answers ARP for the VIP, which backends have on `lo`.
const BACKEND_SETTINGS: [(&str, &str); 2] =
    [("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")];

/// The MAC address of a balancer, counted from 0, where the clients are.
pub(crate) fn balancer_mac(index: usize) -> String {
    let number = u8::try_from(index).expect("a lab has eight balancers at most");
    Network::Front.mac(BALANCERS + number)
}

/// Who there is. Everything else follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topology {
    pub(crate) backends: u8,
    pub(crate) balancers: u8,
    pub(crate) two_networks: bool,
    /// With two networks: whether balancers are on the front one alone.
    pub(crate) routed: bool,
    pub(crate) vip_on_balancer: bool,
}

/// A cable: a veth pair between an interface and a port of a bridge.
#[derive(Debug, Clone)]
pub(crate) struct Plug {
    pub(crate) role: String,
    interface: &'static str,
    network: Network,
    host: u8,
    /// The bridge's end.
    pub(crate) port: String,
}

/// One of the switched networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Front,
    Back,
}

// === impl Topology ===

impl Topology {
    /// All machines.
    pub(crate) fn roles(self) -> Vec<String> {
        let backends = (1..=self.backends).map(backend_name);
        [CLIENT_ROLE.to_owned()].into_iter().chain(self.balancer_roles()).chain(backends).collect()
    }

    /// The balancers' addresses on the front network, in order.
    pub(crate) fn balancer_addresses(self) -> impl Iterator<Item = (Ipv4Addr, Ipv6Addr)> {
        let hosts = (BALANCERS..).take(self.balancers.into());
        hosts.map(|host| (Network::Front.v4(host), Network::Front.v6(host)))
    }

    /// The balancers' roles, in order.
    pub(crate) fn balancer_roles(self) -> impl Iterator<Item = String> {
        (1..=self.balancers).map(balancer_name)
    }

    /// The backends' roles and own addresses, in order.
    pub(crate) fn backend_addresses(self) -> impl Iterator<Item = (String, Ipv4Addr, Ipv6Addr)> {
        let network = self.backend_network();
        (1..=self.backends)
            .zip(BACKENDS..)
            .map(move |(number, host)| (backend_name(number), network.v4(host), network.v6(host)))
    }

    /// Whether balancers are on the backends' network too.
    pub(crate) fn balancers_are_in_both(self) -> bool {
        self.two_networks && !self.routed
    }

    pub(crate) fn is_balancer(self, role: &str) -> bool {
        self.balancer_roles().any(|balancer| balancer == role)
    }

    fn is_backend(self, role: &str) -> bool {
        (1..=self.backends).map(backend_name).any(|backend| backend == role)
    }

    /// Everyone's cables.
    pub(crate) fn plugs(self) -> Vec<Plug> {
        let plug = |role: String, interface, network, host| {
            let port =
                if interface == "eth0" { role.clone() } else { format!("{role}-{interface}") };
            Plug { role, interface, network, host, port }
        };
        let mut plugs = vec![plug(CLIENT_ROLE.to_owned(), "eth0", Network::Front, CLIENT)];
        for number in 1..=self.balancers {
            let (role, host) = (balancer_name(number), BALANCERS + number - 1);
            plugs.push(plug(role.clone(), "eth0", Network::Front, host));
            if self.balancers_are_in_both() {
                plugs.push(plug(role, "eth1", Network::Back, host));
            }
        }
        for number in 1..=self.backends {
            let host = BACKENDS + number - 1;
            plugs.push(plug(backend_name(number), "eth0", self.backend_network(), host));
        }
        plugs
    }

    /// Makes the bridges and a veth pair for each plug.
    pub(crate) fn lay_cables(
        self,
        bridge: &Namespace,
        namespaces: &[Namespace],
        plugs: &[Plug],
    ) -> Result<()> {
        let mut lines = vec!["link set dev lo up".to_owned()];
        for network in if self.two_networks { &Network::ALL[..] } else { &Network::ALL[..1] } {
            let (name, mac) = (network.name(), network.mac(ROUTER));
            lines.push(format!("link add name {name} address {mac} type bridge mcast_snooping 0"));
            lines.push(format!("link set dev {name} up"));
            lines.push(format!("address add {}/24 dev {name}", network.v4(ROUTER)));
            lines.push(format!("address add {}/64 dev {name} nodad", network.v6(ROUTER)));
        }
        for Plug { role, interface, network, host, port } in plugs {
            let machine = namespaces.iter().find(|namespace| namespace.role() == role);
            let machine = machine.with_context(|| format!("the lab lacks {role}"))?;
            let mac = network.mac(*host);
            lines.push(format!(
                "link add name {port} {ONE_QUEUE} type veth peer name {interface} address {mac} \
                 {ONE_QUEUE} netns {machine}"
            ));
            lines.push(format!("link set dev {port} master {} up", network.name()));
        }
        bridge.ip(&lines)?;
        plugs.iter().try_for_each(|plug| checksum_in_software(bridge, &plug.port))?;
        bridge.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
    }

    /// Gives every machine its addresses and routes.
    pub(crate) fn set_up_machines(self, namespaces: &[Namespace], plugs: &[Plug]) -> Result<()> {
        namespaces.iter().try_for_each(|machine| {
            let mine = plugs.iter().filter(|plug| plug.role == machine.role());
            let mut lines = vec!["link set dev lo up".to_owned()];
            for Plug { interface, network, host, .. } in mine.clone() {
                lines.push(format!("link set dev {interface} up"));
                lines.push(format!("address add {}/24 dev {interface}", network.v4(*host)));
                lines.push(format!("address add {}/64 dev {interface} nodad", network.v6(*host)));
            }
            if let Some(Plug { network, .. }) = mine.clone().next()
                && self.two_networks
            {
                lines.push(format!("route add default via {}", network.v4(ROUTER)));
                lines.push(format!("route add ::/0 via {}", network.v6(ROUTER)));
            }
            if let Some(interface) = self.vip_interface(machine.role()) {
                let (v4, v6) = (Network::Front.v4(VIP), Network::Front.v6(VIP));
                lines.push(format!("address add {v4}/32 dev {interface}"));
                // Else the kernel would take it for the source of what the balancer itself sends.
                let source = "preferred_lft 0 valid_lft forever";
                lines.push(format!("address add {v6}/128 dev {interface} nodad {source}"));
            }
            machine.ip(&lines)?;
            mine.clone().try_for_each(|plug| checksum_in_software(machine, plug.interface))?;
            if self.is_backend(machine.role()) {
                machine.sysctl(&BACKEND_SETTINGS)?;
                mine.clone().try_for_each(|plug| keep_flows_in_order(machine, plug.interface))?;
            }
            Ok(())
        })
    }

    fn backend_network(self) -> Network {
        if self.two_networks { Network::Back } else { Network::Front }
    }

    /// Where a machine has the VIP.
    fn vip_interface(self, role: &str) -> Option<&'static str> {
        if self.is_backend(role) {
            return Some("lo");
        }
        (self.vip_on_balancer && role == balancer_name(1)).then_some("eth0")
    }
}

// === impl Plug ===

impl Plug {
    /// Whether it leads to the clients' network.
    pub(crate) fn is_front(&self) -> bool {
        self.network == Network::Front
    }

    /// The command of `ip` that puts the port into its bridge.
    pub(crate) fn join(&self) -> String {
        format!("link set dev {} master {}", self.port, self.network.name())
    }

    /// The command of `ip` that takes the port out of its bridge. The carrier stays.
    pub(crate) fn leave(&self) -> String {
        format!("link set dev {} nomaster", self.port)
    }

    /// The command of `ip` that lets no frame pass between this port and others so set, or does.
    pub(crate) fn isolate(&self, state: &str) -> String {
        format!("link set dev {} type bridge_slave isolated {state}", self.port)
    }

    /// The command of `ip` that turns the port on or off, and with it the interface's carrier.
    pub(crate) fn turn(&self, state: &str) -> String {
        format!("link set dev {} {state}", self.port)
    }
}

// === impl Network ===

impl Network {
    const ALL: [Self; 2] = [Self::Front, Self::Back];

    const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Front => 77,
            Self::Back => 78,
        }
    }

    const fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number(), 0, host)
    }

    /// Hexadecimal groups that read like the decimal numbers of IPv4.
    const fn v6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00 + reads_like(self.number()), 0, 0, 0, 0, 0, 0, reads_like(host))
    }

    fn mac(self, host: u8) -> String {
        format!("02:{}:00:00:00:{host:02x}", self.number())
    }
}

// === helpers ===

/// Makes the kernel finish checksums and cut segments before it gives frames to an interface:
/// veth never would, and an XDP program would forward them unfinished.
fn checksum_in_software(namespace: &Namespace, interface: &str) -> Result<()> {
    let offloads =
        ["tx", "rx", "tso", "gso", "gro"].into_iter().flat_map(|offload| [offload, "off"]);
    let words: Vec<_> = ["ethtool", "-K", interface].into_iter().chain(offloads).collect();
    namespace.run(&words).map(drop)
}

/// Has an interface without an XDP program take packets through NAPI, hence one after another: see
/// [`ONE_QUEUE`].
fn keep_flows_in_order(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.run(&["ethtool", "-K", interface, "gro", "on"]).map(drop)
}

fn balancer_name(number: u8) -> String {
    if number == 1 { "balancer".to_owned() } else { format!("balancer{number}") }
}

fn backend_name(number: u8) -> String {
    format!("b{number}")
}

/// The number that, written in hexadecimal, looks like `decimal`.
const fn reads_like(decimal: u8) -> u16 {
    let (hundreds, tens, ones) = (decimal / 100, decimal / 10 % 10, decimal % 10);
    hundreds as u16 * 0x100 + tens as u16 * 0x10 + ones as u16
}
