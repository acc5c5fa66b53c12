//! The network: who there is, who is plugged in where, and with which addresses.
//!
//! With one network, everyone is on it and backends answer clients directly:
//!
//! ```text
//!   client .10     balancer .2 (VIP .100)     b1 .21 (VIP on lo)   b2 .22 …
//!      └───────────────┴──── front 10.77.0.0/24 ────┴─────────────────┘
//! ```
//!
//! With [two](LabBuilder::two_networks), a balancer receives on `eth0` and sends on `eth1`, and
//! backends answer through a router, which is not the balancer:
//!
//! ```text
//!   client .10     balancer eth0 .2 (VIP .100)    balancer eth1 .2     b1 .21 (VIP on lo)
//!      └──────┬───────┴─ front 10.77.0.0/24              └─────┬───────────┴─ back 10.78.0.0/24
//!             └──────────────── router .1 ─────────────────────┘
//! ```
//!
//! IPv6 is the same with `fd77::/64` and `fd78::/64`, the last group reading like the last number.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::{
    Backend, Balancer, Client, Namespace, Service, namespace, process, requirements,
    sweep::{self, LabName},
    xdp::{Attachment, Program},
};

/// The namespace of the switches: one Linux bridge a network, and the router between them.
const BRIDGE: &str = "bridge";
/// The last number of everyone's address; balancers and backends count up from theirs.
const ROUTER: u8 = 1;
const BALANCERS: u8 = 2;
const CLIENT: u8 = 10;
const BACKENDS: u8 = 21;
const VIP: u8 = 100;

/// A built network. Dropping it ends all that runs in it and removes it.
#[derive(Debug)]
pub struct Lab {
    client: Client,
    balancers: Vec<Balancer>,
    backends: Vec<Backend>,
    bridge: Namespace,
    plugs: Vec<Plug>,
    _attachments: Vec<Attachment>,
    // After those who use what is removed with it.
    remains: Remains,
}

/// What a [`Lab`] will be.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    backends: u8,
    balancers: u8,
    two_networks: bool,
    vip_on_balancer: bool,
}

/// Names and files, removed on drop: also when building fails half-way.
#[derive(Debug)]
struct Remains {
    name: LabName,
    directory: TempDir,
}

/// One of the lab's switched networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Front,
    Back,
}

/// A cable: a veth pair between an interface and a port of a bridge.
#[derive(Debug, Clone)]
struct Plug {
    role: String,
    interface: &'static str,
    network: Network,
    host: u8,
    /// The bridge's end.
    port: String,
}

// === impl Lab ===

impl Lab {
    /// One client, one balancer with the VIP, two backends, one network, unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder { backends: 2, balancers: 1, two_networks: false, vip_on_balancer: true }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The first balancer.
    pub fn balancer(&self) -> &Balancer {
        &self.balancers[0]
    }

    /// All balancers.
    pub fn balancers(&self) -> &[Balancer] {
        &self.balancers
    }

    /// All backends: `b1`, `b2`, …
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// A backend by its name.
    ///
    /// # Panics
    ///
    /// There is none of that name.
    pub fn backend(&self, name: &str) -> &Backend {
        let found = self.backends.iter().find(|backend| backend.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no backend {name}"))
    }

    /// A namespace by its role: `client`, `balancer`, `balancer2`, `b1`, `bridge`, …
    ///
    /// # Panics
    ///
    /// There is none of that role.
    pub fn namespace(&self, role: &str) -> &Namespace {
        let balancers = self.balancers.iter().map(Balancer::namespace);
        let backends = self.backends.iter().map(Backend::namespace);
        let mut all =
            [self.client.namespace(), &self.bridge].into_iter().chain(balancers).chain(backends);
        let found = all.find(|namespace| namespace.role() == role);
        found.unwrap_or_else(|| panic!("the lab has no namespace {role}"))
    }

    /// The VIP with a port: an address of the first balancer's `eth0` and of each backend's `lo`.
    pub fn vip(&self, port: u16) -> SocketAddr {
        (Network::Front.v4(VIP), port).into()
    }

    /// The IPv6 VIP with a port.
    pub fn vip6(&self, port: u16) -> SocketAddr {
        (Network::Front.v6(VIP), port).into()
    }

    /// A TCP service on the VIP with all the lab's backends, for a configuration.
    pub fn service(&self, name: &str, port: u16) -> Service {
        Service::new(name, self.vip(port), &self.backends)
    }

    /// Pulls a machine's cables, all of them: its interfaces lose their carrier.
    ///
    /// # Errors
    ///
    /// There is none of that role.
    pub fn unplug(&self, role: &str) -> Result<()> {
        self.set_ports(role, "down")
    }

    /// Plugs a machine's cables in again.
    ///
    /// # Errors
    ///
    /// As for [`Lab::unplug`].
    pub fn plug(&self, role: &str) -> Result<()> {
        self.set_ports(role, "up")
    }

    fn set_ports(&self, role: &str, state: &str) -> Result<()> {
        let ports = self.plugs.iter().filter(|plug| plug.role == role);
        let lines: Vec<_> =
            ports.map(|plug| format!("link set dev {} {state}", plug.port)).collect();
        ensure!(!lines.is_empty(), "the lab has no machine {role}");
        self.bridge.ip(&lines)
    }

    /// The text that the names of this lab's namespaces begin with.
    pub fn prefix(&self) -> String {
        self.remains.name.namespace("")
    }

    /// The directory of all the lab's files; it ends with the lab.
    pub fn directory(&self) -> &Path {
        self.remains.directory.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.remains.logs());
        }
    }
}

// === impl LabBuilder ===

impl LabBuilder {
    /// How many backends, up to 64.
    #[must_use]
    pub fn backends(mut self, number: u8) -> Self {
        self.backends = number;
        self
    }

    /// How many balancers, 1 to 8.
    #[must_use]
    pub fn balancers(mut self, number: u8) -> Self {
        self.balancers = number;
        self
    }

    /// Backends are on a network of their own: what a balancer forwards leaves through another
    /// interface (`XDP_REDIRECT`) than it came by.
    #[must_use]
    pub fn two_networks(mut self) -> Self {
        self.two_networks = true;
        self
    }

    /// No balancer has the VIP, until something (VRRP) gives it to one.
    #[must_use]
    pub fn unclaimed_vip(mut self) -> Self {
        self.vip_on_balancer = false;
        self
    }

    /// Builds the network and starts its servers, which answer when this returns. Also removes
    /// what labs of dead processes left.
    ///
    /// # Errors
    ///
    /// The process is not root, a program is missing, or the kernel refuses something.
    pub fn build(self) -> Result<Lab> {
        requirements::require_root()?;
        requirements::require_programs()?;
        ensure!(self.backends <= 64, "a lab has at most 64 backends");
        ensure!((1..=8).contains(&self.balancers), "a lab has 1 to 8 balancers");
        sweep::remove_leftovers();

        let remains = Remains::new()?;
        let plugs = self.plugs();
        let roles: Vec<_> = machines(&plugs).collect();
        let (bridge, namespaces) = remains.make_namespaces(&roles)?;
        self.lay_cables(&bridge, &namespaces, &plugs)?;
        let pass = Program::pass()?;
        let attachments = plugs
            .iter()
            .filter(|plug| plug.role.starts_with("balancer"))
            .map(|plug| pass.attach(&bridge, &plug.port))
            .collect::<Result<_>>()?;

        self.set_up_machines(&namespaces, &plugs)?;
        let named = |role: &str| {
            let mut all = namespaces.iter();
            all.find(|namespace| namespace.role() == role)
                .cloned()
                .with_context(|| format!("the lab lacks {role}"))
        };
        let balancers = (1..=self.balancers).map(|number| {
            let role = balancer_name(number);
            let pins = remains.name.bpf_directory(&role);
            Ok(Balancer::new(named(&role)?, self.two_networks, pins))
        });
        Ok(Lab {
            client: Client::new(named("client")?, Network::Front.v4(CLIENT)),
            balancers: balancers.collect::<Result<_>>()?,
            backends: self.start_backends(&namespaces)?,
            bridge,
            plugs,
            _attachments: attachments,
            remains,
        })
    }

    /// Everyone's cables.
    fn plugs(&self) -> Vec<Plug> {
        let plug = |role: String, interface, network, host| {
            let port =
                if interface == "eth0" { role.clone() } else { format!("{role}-{interface}") };
            Plug { role, interface, network, host, port }
        };
        let mut plugs = vec![plug("client".to_owned(), "eth0", Network::Front, CLIENT)];
        for number in 1..=self.balancers {
            let (role, host) = (balancer_name(number), BALANCERS + number - 1);
            plugs.push(plug(role.clone(), "eth0", Network::Front, host));
            if self.two_networks {
                plugs.push(plug(role, "eth1", Network::Back, host));
            }
        }
        for number in 1..=self.backends {
            let host = BACKENDS + number - 1;
            plugs.push(plug(backend_name(number), "eth0", self.backend_network(), host));
        }
        plugs
    }

    fn backend_network(&self) -> Network {
        if self.two_networks { Network::Back } else { Network::Front }
    }

    /// Makes the bridges and a veth pair for each plug.
    fn lay_cables(
        &self,
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
                "link add name {port} type veth peer name {interface} address {mac} netns {machine}"
            ));
            lines.push(format!("link set dev {port} master {} up", network.name()));
        }
        bridge.ip(&lines)?;
        plugs.iter().try_for_each(|plug| checksum_in_software(bridge, &plug.port))?;
        bridge.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
    }

    /// Gives every machine its addresses and routes.
    fn set_up_machines(&self, namespaces: &[Namespace], plugs: &[Plug]) -> Result<()> {
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
                lines.push(format!("address add {v6}/128 dev {interface} nodad"));
            }
            machine.ip(&lines)?;
            mine.clone().try_for_each(|plug| checksum_in_software(machine, plug.interface))
        })
    }

    /// Where a machine has the VIP.
    fn vip_interface(&self, role: &str) -> Option<&'static str> {
        match role {
            "client" => None,
            "balancer" => self.vip_on_balancer.then_some("eth0"),
            _ if role.starts_with("balancer") => None,
            _ => Some("lo"),
        }
    }

    fn start_backends(&self, namespaces: &[Namespace]) -> Result<Vec<Backend>> {
        let network = self.backend_network();
        let vips = [IpAddr::V4(Network::Front.v4(VIP)), IpAddr::V6(Network::Front.v6(VIP))];
        let servers =
            namespaces.iter().filter(|machine| self.vip_interface(machine.role()) == Some("lo"));
        servers
            .zip(BACKENDS..)
            .map(|(machine, host)| {
                Backend::start(machine.clone(), network.v4(host), network.v6(host), vips)
            })
            .collect()
    }
}

// === impl Remains ===

impl Remains {
    fn new() -> Result<Self> {
        let name = LabName::new();
        let directory = tempfile::Builder::new()
            .prefix(&name.namespace(""))
            .tempdir()
            .context("make the lab's directory")?;
        Ok(Self { name, directory })
    }

    /// Makes a namespace and a directory for each role, and the bridge's.
    fn make_namespaces(&self, roles: &[&str]) -> Result<(Namespace, Vec<Namespace>)> {
        let roles = || [BRIDGE].into_iter().chain(roles.iter().copied());
        let lines: Vec<_> =
            roles().map(|role| format!("netns add {}", self.name.namespace(role))).collect();
        let script = self.directory.path().join("namespaces.batch");
        namespace::ip_batch(Command::new("ip"), &script, &lines)?;

        let opened = roles().map(|role| {
            let directory = self.directory.path().join(role);
            std::fs::create_dir(&directory)
                .with_context(|| format!("make {}", directory.display()))?;
            let opened = Namespace::open(&self.name.namespace(role), role, directory)?;
            opened.sysctl(&SETTINGS)?;
            if role != BRIDGE && role != "client" && !role.starts_with("balancer") {
                opened.sysctl(&BACKEND_SETTINGS)?;
            }
            Ok(opened)
        });
        let mut all = opened.collect::<Result<Vec<_>>>()?.into_iter();
        let bridge = all.next().ok_or_else(|| anyhow!("the lab lacks its bridge"))?;
        Ok((bridge, all.collect()))
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let directories = std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let files = directories
            .flat_map(|directory| std::fs::read_dir(directory.path()).into_iter().flatten())
            .flatten()
            .map(|file| file.path());
        let logs = files.filter(|path| path.extension().is_some_and(|name| name == "log"));
        logs.map(|log| process::tail(&log)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        sweep::remove_lab(&self.name);
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

/// Before any interface exists, so that all have them.
const SETTINGS: [(&str, &str); 7] = [
    // Backends' answers have the VIP as their source, which no route back to them mentions.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // A router that tells of a shorter way would change the network under test.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // Ten thousand connections in a row.
    ("ipv4/ip_local_port_range", "10000 65000"),
];

/// Only the balancer answers ARP for the VIP, which backends have on `lo`.
const BACKEND_SETTINGS: [(&str, &str); 2] =
    [("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")];

/// Makes the kernel finish checksums and cut segments before it gives frames to an interface:
/// veth never would, and an XDP program would forward them unfinished.
fn checksum_in_software(namespace: &Namespace, interface: &str) -> Result<()> {
    let offloads =
        ["tx", "rx", "tso", "gso", "gro"].into_iter().flat_map(|offload| [offload, "off"]);
    let words: Vec<_> = ["ethtool", "-K", interface].into_iter().chain(offloads).collect();
    namespace.run(&words).map(drop)
}

/// The roles of all machines, each once.
fn machines(plugs: &[Plug]) -> impl Iterator<Item = &str> {
    plugs.iter().filter(|plug| plug.interface == "eth0").map(|plug| plug.role.as_str())
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
