//! The configuration as the rest of the program sees it: parsed, complete, consistent.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Prefix, Vrrp};

/// A name that users give: of a service, a backend, a node. Letters, digits, `.`, `_` and `-`,
/// one to 63 of them, so that it is safe in paths, labels and URLs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 letters, digits, '.', '_' or '-'")]
pub struct InvalidName;

/// Where the control socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/weir.sock";

/// The whole configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[control]`
    pub control: Control,
    /// `[admin]`
    pub admin: Admin,
    /// `[limits]`
    pub limits: Limits,
    /// `[[interface]]`, at least one, names unique.
    pub interfaces: Vec<Interface>,
    /// `[sync]`, if there are peers.
    pub sync: Option<Sync>,
    /// `[[service]]`, names unique, no two with the same address, port and protocol.
    pub services: Vec<Service>,
    /// `[[vrrp]]`, names unique.
    pub vrrp: Vec<Vrrp>,
}

/// This machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; the host's name by default.
    pub name: String,
    /// Where runtime changes are kept.
    pub state_dir: PathBuf,
    /// Where program, maps and links are pinned: a directory on a bpffs.
    pub bpf_dir: PathBuf,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// The group that may use it, if such a group exists.
    pub group: String,
}

/// The read-only HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// The other balancers with the same tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Where this node listens for them.
    pub listen: SocketAddr,
    /// Where they listen; at least one, none twice.
    pub peers: Vec<SocketAddr>,
    /// The file of the key that all share.
    pub key_file: PathBuf,
    /// Time between two probes of a VRRP master's host; zero for none.
    pub probe: Duration,
    /// Hosts that tell "the peer is gone" from "this node is cut off"; none given twice.
    pub witness: Vec<IpAddr>,
    /// The program that makes sure of a silent peer, and its arguments; empty for none.
    pub fence: Vec<String>,
}

/// Sizes of the kernel tables, fixed when the program is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Services, 1 to 65 536.
    pub services: u32,
    /// Backends of all services together, 1 to 65 533.
    pub backends: u32,
    /// Slots of all rings together, up to 2^28.
    pub ring_slots: u32,
    /// Recorded flows.
    pub flows: u32,
}

/// An interface that the program is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How the program is attached.
    pub mode: AttachMode,
}

/// How a program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver if it can, else generic, with a warning.
    Auto,
    /// In the driver.
    Native,
    /// In the network stack: any driver, slower.
    Generic,
}

/// A virtual IP, port and protocol, and the backends behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The VIP.
    pub address: IpAddr,
    /// The port; 0 means every port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How flows find their backend.
    pub algorithm: Algorithm,
    /// Whether flows stay with their backends while the ring changes. Without (UDP alone) nothing
    /// is recorded.
    pub affinity: bool,
    /// What becomes of fragments that come before the first one of their datagram.
    pub fragments: Fragments,
    /// How packets reach their backend.
    pub forward: Forward,
    /// What `ipip` and `gue` put before them.
    pub tunnel: Tunnel,
    /// Slots of the ring.
    pub ring: u32,
    /// How long a silent flow is remembered.
    pub idle_timeout: Duration,
    /// What happens to packets while no backend is left.
    pub on_empty: OnEmpty,
    /// Whether echo requests to the VIP are answered, whoever has the address. One of a VIP's
    /// services is enough.
    pub ping: bool,
    /// Over how long a backend that begins to serve gets its slots; zero: at once.
    pub slow_start: Duration,
    /// Below this share of healthy backends, flows are spread over the failed ones too.
    pub panic_threshold: Share,
    /// How its backends are checked.
    pub health: HealthCheck,
    /// Its backends, names and addresses unique.
    pub backends: Vec<Backend>,
}

/// The transport protocols that can be balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a flow finds its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Consistent hash of addresses and ports.
    Maglev,
    /// Consistent hash of the client's address alone.
    IpHash,
    /// Each flow to the next backend in turn.
    RoundRobin,
    /// Each flow to the less loaded of two backends.
    LeastConn,
}

/// How a packet reaches its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// New Ethernet addresses; the backend is in the same segment (or behind its gateway) and
    /// answers the client directly.
    L2,
    /// Through a tunnel, IP in IP; the backend may be in another network, and takes the outer
    /// header off.
    Ipip,
    /// The same with UDP in between (generic UDP encapsulation).
    Gue,
}

/// What is put before packets that go through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The UDP port that backends decapsulate on (`gue`).
    pub port: u16,
    /// Networks whose addresses the outer source is spread over, one a family at most; for a family
    /// that has none it is the host's own address.
    pub source: Vec<Prefix>,
}

/// What becomes of fragments whose datagram's first one has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// They are dropped: fragments follow the first one, which names the ports.
    Follow,
    /// They go where all fragments of a client go, whatever their ports.
    Any,
}

/// What happens to packets of a service without backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnEmpty {
    /// Their senders are told: a reset, or "port unreachable".
    Reject,
    /// They are dropped.
    Drop,
    /// They pass to the kernel of the balancer.
    Pass,
}

/// A part of a whole, from 0 to 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

/// A server behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name, unique in the service.
    pub name: Name,
    /// Its address, of the service's family unless a tunnel leads there.
    pub address: IpAddr,
    /// Its share of new flows, 0 to 256; 0 gets none.
    pub weight: u16,
    /// Whether it serves only when no other can.
    #[serde(default)]
    pub backup: bool,
}

/// How backends are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a check does.
    pub kind: CheckKind,
    /// The port that is checked: as configured, else the service's. Meaningless for `none` and
    /// `script`, which get it all the same.
    pub port: u16,
    /// Time from the start of one check to the start of the next.
    pub interval: Duration,
    /// How long a check may take; not above the interval.
    pub timeout: Duration,
    /// Passed checks in a row that bring a failed backend back, at least 1.
    pub rise: u32,
    /// Failed checks in a row that take a backend out, at least 1.
    pub fall: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Nothing: backends count as healthy.
    None,
    /// Opens a TCP connection.
    Tcp,
    /// Sends an HTTP/1.1 request.
    Http(HttpCheck),
    /// The same over TLS. The certificate is not verified: a check asks whether the backend
    /// serves, by an address no certificate names.
    Https(HttpCheck),
    /// Runs a program: exit status 0 is healthy.
    Script(Vec<String>),
}

/// An HTTP request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The method, e.g. `GET`.
    pub method: String,
    /// The path with its query, from `/`.
    pub path: String,
    /// `Host` header and TLS server name; without it the backend's address.
    pub host: Option<String>,
    /// Accepted status codes; never empty.
    pub expect: Vec<StatusPattern>,
    /// Text that the body must contain.
    pub body: Option<String>,
}

/// Accepted HTTP status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPattern {
    /// One code.
    Code(u16),
    /// A hundred codes: `Class(2)` is `2xx`.
    Class(u16),
}

// === impl Name ===

impl Name {
    /// Checks a text and makes it a name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is empty, too long, or has another character.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) {
            return Err(InvalidName);
        }
        Ok(Self(text.into()))
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

// === impl Share ===

impl Share {
    /// A half.
    pub const HALF: Self = Self(500);

    /// A fraction from 0 to 1, rounded to thousandths; nothing else is a share.
    pub fn new(fraction: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction from 0 to 1 makes 0 to 1000"
        )]
        let thousandths = |fraction: f64| Self((fraction * 1000.0).round() as u16);
        (0.0..=1.0).contains(&fraction).then(|| thousandths(fraction))
    }

    /// Whether `part` of `whole` is less than this share of it.
    pub fn exceeds(self, part: usize, whole: usize) -> bool {
        part.saturating_mul(1000) < whole.saturating_mul(self.0.into())
    }
}

// === impl StatusPattern ===

impl StatusPattern {
    /// Whether a status code fits.
    pub fn matches(self, status: u16) -> bool {
        match self {
            Self::Code(code) => status == code,
            Self::Class(class) => status / 100 == class,
        }
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// The port of GUE (IANA).
    pub const PORT: u16 = 6080;

    /// The network that the outer source is spread over on the way to a backend.
    pub fn source_to(&self, backend: IpAddr) -> Option<Prefix> {
        let same = |prefix: &&Prefix| prefix.address.is_ipv4() == backend.is_ipv4();
        self.source.iter().find(same).copied()
    }
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { port: Self::PORT, source: Vec::new() }
    }
}

// === impl Forward ===

impl Forward {
    /// Whether a header is put before packets.
    pub const fn is_tunnel(self) -> bool {
        match self {
            Self::L2 => false,
            Self::Ipip | Self::Gue => true,
        }
    }

    /// The mode as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// Whether each flow has a backend chosen for it and is recorded.
    pub const fn is_per_flow(self) -> bool {
        match self {
            Self::Maglev | Self::IpHash => false,
            Self::RoundRobin | Self::LeastConn => true,
        }
    }

    /// The algorithm as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::IpHash => "ip_hash",
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// The protocol's number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

// === impl Config ===

impl Config {
    /// The service of that name.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }
}
