//! `[[vrrp]]`: the virtual addresses that balancers share, and who is to have them.

use std::{fmt, net::IpAddr, time::Duration};

use toml::de::DeValue;

use super::{
    checks::Once,
    duration::display_duration,
    model::{Name, Service},
    reader::Table,
    schedule::{Bounds, Schedule, program, schedule},
    values::{self, Refusal},
};
use crate::vrrp::{
    auth::{Authentication, Password},
    packet::{Coverage, Version},
};

/// Addresses of one instance: an advert of so many IPv6 addresses fits any link's packets.
const ADDRESSES_MAX: usize = 64;
const DEFAULT_SERVICE_PENALTY: u8 = 50;
const DEFAULT_SCRIPT_PENALTY: u8 = 20;
const SCRIPT_BOUNDS: Bounds = Bounds {
    least_interval: Duration::from_millis(100),
    least_timeout: Duration::from_millis(10),
    default_interval: Duration::from_secs(2),
};

/// A virtual router: addresses of which one balancer at a time is the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vrrp {
    /// Its name, unique.
    pub name: Name,
    /// Where adverts are exchanged and the addresses are.
    pub interface: String,
    /// The virtual router id, 1 to 255, unique on the interface and family.
    pub router_id: u8,
    /// The protocol's version.
    pub version: Version,
    /// The priority before penalties, 1 to 255; 255 is the address owner's.
    pub priority: u8,
    /// Time between adverts.
    pub interval: Duration,
    /// What the checksum of v3 over IPv4 covers.
    pub coverage: Coverage,
    /// Whether a master of lower priority is replaced.
    pub preempt: bool,
    /// How long it is left alone before.
    pub preempt_delay: Duration,
    /// The addresses with their networks, 1 to 64, of one family.
    pub addresses: Vec<Prefix>,
    /// Whom adverts are sent to, and from whom they are taken; empty for multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// The password of v2.
    pub authentication: Authentication,
    /// Instances of one group move together.
    pub sync_group: Option<Name>,
    /// How new addresses are announced.
    pub garp: Garp,
    /// Whether the addresses have the virtual router's Ethernet address, on an interface of their own.
    pub virtual_mac: bool,
    /// What the priority follows.
    pub track: Vec<Track>,
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// The prefix length: up to 32 or 128.
    pub length: u8,
}

/// Gratuitous ARP and unsolicited neighbour advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garp {
    /// How often addresses are announced after a take-over, at least once.
    pub repeat: u32,
    /// How often they are announced later on; zero for never.
    pub refresh: Duration,
}

/// A condition that the priority follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// What is looked at.
    pub what: Tracked,
    /// What is taken off the priority while it fails; without it the instance takes no part then.
    pub penalty: Option<u8>,
}

/// What can be tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// The interface is up, and has the XDP program if Weir uses it.
    Interface(String),
    /// The service has a backend that is up.
    Service(Name),
    /// A program says so.
    Script(TrackScript),
}

/// A program whose exit status is tracked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackScript {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Time from one start to the next.
    pub interval: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// Successes in a row that end a failure.
    pub rise: u32,
    /// Failures in a row that make one.
    pub fall: u32,
}

/// All instances. `services` are those that can be tracked, if they were understood.
pub(super) fn instances(root: &mut Table<'_>, services: Option<&[Service]>) -> Option<Vec<Vrrp>> {
    let mut names = Once::default();
    let mut routers = Once::default();
    let mut addresses = Once::default();
    root.sections("vrrp", "in [[vrrp]]", |table| {
        let instance = instance(table, services)?;
        let Vrrp { name, interface, router_id, .. } = &instance;
        names.check(table, "name", name.clone(), &format!("VRRP instance \"{name}\""));
        let family = if instance.is_ipv4() { "IPv4" } else { "IPv6" };
        let what = format!("router id {router_id} on {interface} for {family}");
        routers.check(table, "router_id", (interface.clone(), *router_id, family), &what);
        for prefix in &instance.addresses {
            let address = prefix.address;
            addresses.check(table, "addresses", address, &format!("the address {address}"));
        }
        Some(instance)
    })
}

fn instance(table: &mut Table<'_>, services: Option<&[Service]>) -> Option<Vrrp> {
    let name = table.required("name", values::name);
    let interface = table.required("interface", values::interface_name);
    let router_id = table.required("router_id", values::number8(1..=255));
    let versions = values::number8(2..=3);
    let version = table.or("version", versions, 3);
    let version = version.map(|number| if number == 2 { Version::V2 } else { Version::V3 });
    let priority = table.or("priority", values::number8(1..=255), 100);
    let interval = interval(table, version);
    let preempt = table.or("preempt", values::boolean, true);
    let delays = values::duration(Duration::ZERO..=Duration::from_secs(3600));
    let preempt_delay = table.or("preempt_delay", delays, Duration::ZERO);
    let addresses = addresses(table, version);
    let family = addresses.as_ref().and_then(|list| list.first()).map(|p| p.address.is_ipv4());
    let coverage = coverage(table, version, family);
    let unicast_peers = peers(table, addresses.as_deref());
    let authentication = authentication(table, version);
    let group = |value: &DeValue<'_>| match value.as_str() {
        Some("") => Ok(None),
        _ => values::name(value).map(Some),
    };
    let sync_group = table.or("sync_group", group, None);
    let garp = table.section("garp", "in [vrrp.garp]", garp);
    let track = table.sections("track", "in [[vrrp.track]]", |table| track(table, services));
    let virtual_mac = table.or("virtual_mac", values::boolean, false);
    if virtual_mac == Some(true) && unicast_peers.as_ref().is_some_and(|peers| !peers.is_empty()) {
        let message = "virtual_mac = true needs adverts by multicast, which tell switches where the \
                       address is; leave unicast_peers out";
        table.fault("virtual_mac", message.to_owned());
    }
    Some(Vrrp {
        name: name?,
        interface: interface?,
        router_id: router_id?,
        version: version?,
        priority: priority?,
        interval: interval?,
        coverage: coverage?,
        preempt: preempt?,
        preempt_delay: preempt_delay?,
        addresses: addresses?,
        unicast_peers: unicast_peers?,
        authentication: authentication?,
        sync_group: sync_group?,
        garp: garp?,
        virtual_mac: virtual_mac?,
        track: track?,
    })
}

/// v3 counts in hundredths of a second, in twelve bits; v2 in seconds, in eight.
fn interval(table: &mut Table<'_>, version: Option<Version>) -> Option<Duration> {
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    let (range, unit, default) = match version? {
        Version::V2 => (seconds(1)..=seconds(255), seconds(1), seconds(1)),
        Version::V3 => (millis(10)..=millis(40_950), millis(10), millis(100)),
    };
    let interval = table.or("interval", values::duration(range), default)?;
    if !interval.as_nanos().is_multiple_of(unit.as_nanos()) {
        let message = format!(
            "interval: found {:?}, expected a multiple of {}, in which adverts tell it",
            display_duration(interval),
            display_duration(unit)
        );
        table.fault("interval", message);
    }
    Some(interval)
}

fn addresses(table: &mut Table<'_>, version: Option<Version>) -> Option<Vec<Prefix>> {
    if !table.has("addresses") {
        table.missing("addresses");
    }
    let expected = "a list of addresses such as [\"192.0.2.10/24\"]";
    let addresses = table.list("addresses", expected, prefix)?;
    let families = addresses.iter().filter(|prefix| prefix.address.is_ipv4()).count();
    if addresses.len() > ADDRESSES_MAX {
        let found = addresses.len();
        let message = format!(
            "addresses: found {found}, expected at most {ADDRESSES_MAX}; use several instances of \
             one sync_group"
        );
        table.fault("addresses", message);
    } else if families != 0 && families != addresses.len() {
        let message = "addresses: found both IPv4 and IPv6, expected one family; use an instance \
                       for each, with one sync_group";
        table.fault("addresses", message.to_owned());
    } else if families == 0 && version == Some(Version::V2) {
        let message =
            "addresses: found IPv6 with version = 2, which has IPv4 only; use version = 3";
        table.fault("addresses", message.to_owned());
    }
    Some(addresses)
}

/// An address with the length of its prefix.
pub(super) fn prefix(value: &DeValue<'_>) -> Result<Prefix, Refusal> {
    let expected = || {
        Refusal::Expected(
            "an address with its prefix length, such as \"192.0.2.10/24\" or \"2001:db8::10/64\""
                .to_owned(),
        )
    };
    let (address, length) =
        value.as_str().and_then(|text| text.split_once('/')).ok_or_else(expected)?;
    let address =
        values::host_address(address).map_err(|refusal| refusal.unwrap_or_else(expected))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    // Digits alone: `parse` would take a sign.
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|length| digits && (1..=longest).contains(length));
    Ok(Prefix { address, length: length.ok_or_else(expected)? })
}

fn coverage(
    table: &mut Table<'_>,
    version: Option<Version>,
    ipv4: Option<bool>,
) -> Option<Coverage> {
    let words = &[("pseudo-header", Coverage::PseudoHeader), ("message", Coverage::Message)];
    let coverage = table.or("checksum", values::word(words, &[]), Coverage::PseudoHeader);
    if table.has("checksum") && (version == Some(Version::V2) || ipv4 == Some(false)) {
        let message = "checksum is a choice of version 3 over IPv4 alone; leave it out";
        table.fault("checksum", message.to_owned());
    }
    coverage
}

fn peers(table: &mut Table<'_>, addresses: Option<&[Prefix]>) -> Option<Vec<IpAddr>> {
    let peers = table.list_or_empty(
        "unicast_peers",
        "a list of the other balancers' addresses",
        values::address,
    )?;
    for peer in &peers {
        let of_virtual = |prefix: &Prefix| prefix.address == *peer;
        let other_family = |prefix: &Prefix| prefix.address.is_ipv4() != peer.is_ipv4();
        if addresses.is_some_and(|list| list.iter().any(of_virtual)) {
            let message = format!("unicast_peers: {peer} is one of the instance's addresses");
            table.fault("unicast_peers", message);
        } else if addresses.is_some_and(|list| list.iter().any(other_family)) {
            let message = format!("unicast_peers: {peer} is not of the addresses' family");
            table.fault("unicast_peers", message);
        }
    }
    Some(peers)
}

fn authentication(table: &mut Table<'_>, version: Option<Version>) -> Option<Authentication> {
    let authentication = table.or(
        "password",
        |value| {
            let refused = || {
                // Not `Expected`: the message would show what was found.
                Refusal::Hidden("a text of up to 8 ASCII characters without spaces".to_owned())
            };
            match value.as_str().ok_or_else(refused)? {
                "" => Ok(Authentication::None),
                text => Password::new(text).map(Authentication::Simple).map_err(|_| refused()),
            }
        },
        Authentication::None,
    )?;
    if authentication != Authentication::None && version == Some(Version::V3) {
        let message = "password belongs to version = 2; version 3 has no authentication";
        table.fault("password", message.to_owned());
    }
    Some(authentication)
}

fn garp(table: &mut Table<'_>) -> Option<Garp> {
    let repeat = table.or("repeat", values::number(1..=100), 5);
    let refreshes = values::duration(Duration::ZERO..=Duration::from_secs(24 * 3600));
    let refresh = table.or("refresh", refreshes, Duration::ZERO);
    let least = Duration::from_secs(1);
    if refresh.is_some_and(|refresh| !refresh.is_zero() && refresh < least) {
        let message = "refresh: expected \"0s\" for never, or at least \"1s\"";
        table.fault("refresh", message.to_owned());
    }
    Some(Garp { repeat: repeat?, refresh: refresh? })
}

fn track(table: &mut Table<'_>, services: Option<&[Service]>) -> Option<Track> {
    let interface = table.optional("interface", values::interface_name);
    let service = table.optional("service", values::name);
    let given = ["interface", "service", "script"].into_iter().filter(|key| table.has(key)).count();
    let script = if table.has("script") { script(table) } else { no_script(table) };
    let penalty = table.optional("penalty", values::number8(1..=254));
    if given != 1 {
        table.missing_here("track: each condition names one of interface, service or script");
        return None;
    }
    if let Some(name) = &service
        && services.is_some_and(|services| !services.iter().any(|each| each.name == *name))
    {
        table.fault("service", format!("track: there is no service \"{name}\""));
    }
    let (what, default) = match (interface, service, script) {
        (Some(name), _, _) => (Tracked::Interface(name), None),
        (_, Some(name), _) => (Tracked::Service(name), Some(DEFAULT_SERVICE_PENALTY)),
        (_, _, Some(script)) => (Tracked::Script(script), Some(DEFAULT_SCRIPT_PENALTY)),
        _ => return None,
    };
    Some(Track { what, penalty: penalty.or(default) })
}

fn script(table: &mut Table<'_>) -> Option<TrackScript> {
    let command = program(table, "script", "/usr/local/bin/ok");
    let schedule = schedule(table, SCRIPT_BOUNDS);
    let (command, Schedule { interval, timeout, rise, fall }) = (command?, schedule?);
    Some(TrackScript { command, interval, timeout, rise, fall })
}

fn no_script(table: &mut Table<'_>) -> Option<TrackScript> {
    table.ignore(&["script"]);
    for key in ["interval", "timeout", "rise", "fall"] {
        table.refuse_key(key, &format!("{key} belongs to a tracked script, which this is not"));
    }
    None
}

/// Whether a name is one that [`Vrrp::home`] makes for virtual routers.
pub fn is_virtual_home(name: &str) -> bool {
    let rest = name.strip_prefix("vrrp4-").or_else(|| name.strip_prefix("vrrp6-"));
    rest.and_then(|rest| rest.split_once('-')).is_some_and(|(router_id, hash)| {
        router_id.parse::<u8>().is_ok()
            && hash.len() == 4
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

// === impl Vrrp ===

impl Vrrp {
    /// The interface that its addresses are on.
    pub fn home(&self) -> String {
        if !self.virtual_mac {
            return self.interface.clone();
        }
        // At most fifteen bytes, of which the parent's name may take all: a part of its hash (FNV-1a).
        let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = self.interface.bytes().fold(0x811C_9DC5, mix) & 0xFFFF;
        let family = if self.is_ipv4() { 4 } else { 6 };
        format!("vrrp{family}-{}-{hash:04x}", self.router_id)
    }

    /// The addresses as they are put on that interface: one of their own leads to no network.
    pub fn placed(&self) -> impl Iterator<Item = Prefix> {
        self.addresses.iter().map(|prefix| {
            let longest = if prefix.address.is_ipv4() { 32 } else { 128 };
            let length = if self.virtual_mac { longest } else { prefix.length };
            Prefix { address: prefix.address, length }
        })
    }

    /// Whether its addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addresses.first().is_some_and(|prefix| prefix.address.is_ipv4())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
