//! A built network, and how it comes and goes.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::{
    Backend, Balancer, Client, Namespace, Service, namespace, process, requirements,
    snmp::tcp_counter,
    sweep::{self, LabName},
    topology::{self, Plug, Topology},
    xdp::{Attachment, Program},
};

/// The namespace of the switches: one Linux bridge a network, and the router between them.
const BRIDGE: &str = "bridge";
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
pub struct LabBuilder(Topology);

/// Names and files, removed on drop: also when building fails half-way.
#[derive(Debug)]
struct Remains {
    name: LabName,
    directory: TempDir,
}

// === impl Lab ===

impl Lab {
    /// One client, one balancer with the VIP, two backends, one network, unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder(Topology {
            backends: 2,
            balancers: 1,
            two_networks: false,
            routed: false,
            vip_on_balancer: true,
        })
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
        (topology::VIP4, port).into()
    }

    /// The IPv6 VIP with a port.
    pub fn vip6(&self, port: u16) -> SocketAddr {
        (topology::VIP6, port).into()
    }

    /// A TCP service on the VIP with all the lab's backends, for a configuration.
    pub fn service(&self, name: &str, port: u16) -> Service {
        Service::new(name, self.vip(port), &self.backends)
    }

    /// The same on the IPv6 VIP.
    pub fn service6(&self, name: &str, port: u16) -> Service {
        Service::new(name, self.vip6(port), &self.backends)
    }

    /// Pulls a machine's cables, all of them: its interfaces lose their carrier.
    ///
    /// # Errors
    ///
    /// There is none of that role.
    pub fn unplug(&self, role: &str) -> Result<()> {
        self.at_ports(role, |plug| plug.turn("down"))
    }

    /// Plugs a machine's cables in again.
    ///
    /// # Errors
    ///
    /// As for [`Lab::unplug`].
    pub fn plug(&self, role: &str) -> Result<()> {
        self.at_ports(role, |plug| plug.turn("up"))
    }

    /// Makes a machine as silent as one without power: nothing leaves its cables or comes in by
    /// them. It goes on and keeps its carrier, so it does not notice, and nobody is told.
    ///
    /// # Errors
    ///
    /// As for [`Lab::unplug`].
    pub fn power_off(&self, role: &str) -> Result<()> {
        self.at_ports(role, Plug::leave)
    }

    /// Ends a [`power_off`](Lab::power_off). What ran on the machine, ran on.
    ///
    /// # Errors
    ///
    /// As for [`Lab::unplug`].
    pub fn power_on(&self, role: &str) -> Result<()> {
        self.at_ports(role, Plug::join)
    }

    /// Has no frame pass between the balancers' ports, or as before.
    pub(crate) fn isolate_balancers(&self, state: &str) -> Result<()> {
        let balancers = || self.balancers.iter().map(|balancer| balancer.namespace().role());
        let plugs = self.plugs.iter().filter(|plug| balancers().any(|role| plug.role == role));
        self.bridge.ip(&plugs.map(|plug| plug.isolate(state)).collect::<Vec<_>>())
    }

    /// The switch's ends of the balancers' cables to the front network, with the balancers' roles.
    pub(crate) fn front_ports(&self) -> impl Iterator<Item = (String, Arc<str>)> {
        let balancers = self.balancers.iter().map(Balancer::namespace);
        let ports = balancers.flat_map(|balancer| {
            self.plugs.iter().filter(|plug| plug.is_front() && plug.role == balancer.role())
        });
        ports.map(|plug| (plug.port.clone(), plug.role.as_str().into()))
    }

    /// How many connections each machine's kernel has reset: whose fault a broken one was.
    fn resets(&self) -> String {
        let balancers = self.balancers.iter().map(Balancer::namespace);
        let backends = self.backends.iter().map(Backend::namespace);
        let lines = balancers.chain(backends).chain([self.client.namespace()]).map(|machine| {
            let count = tcp_counter(machine, "OutRsts")
                .map_or_else(|e| format!("{e:#}"), |n| n.to_string());
            format!("{}: {count} resets sent", machine.role())
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn at_ports(&self, role: &str, command: impl Fn(&Plug) -> String) -> Result<()> {
        let ports = self.plugs.iter().filter(|plug| plug.role == role);
        let lines: Vec<_> = ports.map(command).collect();
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
            eprintln!("{}\n{}", self.remains.logs(), self.resets());
        }
    }
}

// === impl LabBuilder ===

impl LabBuilder {
    /// How many backends, up to 64.
    #[must_use]
    pub fn backends(mut self, number: u8) -> Self {
        self.0.backends = number;
        self
    }

    /// How many balancers, 1 to 8.
    #[must_use]
    pub fn balancers(mut self, number: u8) -> Self {
        self.0.balancers = number;
        self
    }

    /// Backends are on a network of their own: what a balancer forwards leaves through another
    /// interface (`XDP_REDIRECT`) than it came by.
    #[must_use]
    pub fn two_networks(mut self) -> Self {
        self.0.two_networks = true;
        self
    }

    /// Backends are on a network of their own, which balancers reach by a router alone.
    #[must_use]
    pub fn routed(mut self) -> Self {
        self.0.routed = true;
        self.two_networks()
    }

    /// No balancer has the VIP, until something (VRRP) gives it to one.
    #[must_use]
    pub fn unclaimed_vip(mut self) -> Self {
        self.0.vip_on_balancer = false;
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
        let topology = self.0;
        ensure!(topology.backends <= 64, "a lab has at most 64 backends");
        ensure!((1..=8).contains(&topology.balancers), "a lab has 1 to 8 balancers");
        sweep::remove_leftovers();

        let remains = Remains::new()?;
        let plugs = topology.plugs();
        let (bridge, namespaces) = remains.make_namespaces(&topology.roles())?;
        topology.lay_cables(&bridge, &namespaces, &plugs)?;
        let pass = Program::pass()?;
        let attachments = plugs
            .iter()
            .filter(|plug| topology.is_balancer(&plug.role))
            .map(|plug| pass.attach(&bridge, &plug.port))
            .collect::<Result<_>>()?;

        topology.set_up_machines(&namespaces, &plugs)?;
        let named = |role: &str| {
            let mut all = namespaces.iter();
            all.find(|namespace| namespace.role() == role)
                .cloned()
                .with_context(|| format!("the lab lacks {role}"))
        };
        let balancers = topology.balancer_roles().zip(topology.balancer_addresses());
        let balancers = balancers.map(|(role, addresses)| {
            let pins = remains.name.bpf_directory(&role);
            Ok(Balancer::new(named(&role)?, addresses, topology.balancers_are_in_both(), pins))
        });
        Ok(Lab {
            client: Client::new(named("client")?, topology::CLIENT4, topology::CLIENT6),
            balancers: balancers.collect::<Result<_>>()?,
            backends: start_backends(topology, &namespaces)?,
            bridge,
            plugs,
            _attachments: attachments,
            remains,
        })
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
    fn make_namespaces(&self, roles: &[String]) -> Result<(Namespace, Vec<Namespace>)> {
        let roles = || [BRIDGE].into_iter().chain(roles.iter().map(String::as_str));
        let lines: Vec<_> =
            roles().map(|role| format!("netns add {}", self.name.namespace(role))).collect();
        let script = self.directory.path().join("namespaces.batch");
        namespace::ip_batch(Command::new("ip"), &script, &lines)?;

        let opened = roles().map(|role| {
            let directory = self.directory.path().join(role);
            std::fs::create_dir(&directory)
                .with_context(|| format!("make {}", directory.display()))?;
            let opened = Namespace::open(&self.name.namespace(role), role, directory)?;
            opened.sysctl(&topology::SETTINGS)?;
            Ok(opened)
        });
        let mut all = opened.collect::<Result<Vec<_>>>()?.into_iter();
        let bridge = all.next().ok_or_else(|| anyhow!("the lab lacks its bridge"))?;
        Ok((bridge, all.collect()))
    }

    /// The ends of all logs that say something.
    fn logs(&self) -> String {
        let directories = std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let files = directories
            .flat_map(|directory| std::fs::read_dir(directory.path()).into_iter().flatten())
            .flatten()
            .map(|file| file.path());
        let logs = files.filter(|path| {
            path.extension().is_some_and(|name| name == "log")
                && path.metadata().is_ok_and(|log| log.len() > 0)
        });
        logs.map(|log| process::tail(&log)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        sweep::remove_lab(&self.name);
    }
}

// === helpers ===

fn start_backends(topology: Topology, namespaces: &[Namespace]) -> Result<Vec<Backend>> {
    let vips = [IpAddr::V4(topology::VIP4), IpAddr::V6(topology::VIP6)];
    topology
        .backend_addresses()
        .map(|(role, v4, v6)| {
            let machine = namespaces.iter().find(|namespace| namespace.role() == role);
            let machine = machine.with_context(|| format!("the lab lacks {role}"))?;
            Backend::start(machine.clone(), v4, v6, vips)
        })
        .collect()
}
