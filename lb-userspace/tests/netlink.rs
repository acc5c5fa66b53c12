//! The resolver against the real kernel: two network namespaces joined by two cables (veth pairs).
//! Ours is the test thread's own; the far one lives as long as an idle process in it.
//!
//! `eth0` joins 10.1.0.1 and 10.1.0.2, `fd00:1::1` and `fd00:1::2`;
//! `eth1` joins 10.2.0.1 and 10.2.0.2, `fd00:2::1` and `fd00:2::2`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use tokio::sync::mpsc;
use weir::{
    core::{NextHop, NextHopReport},
    netlink::{Error, LinkReport, NetlinkReport, Resolver, interface},
};

/// Everything here takes milliseconds, but for the kernel's own three seconds without an answer and
/// the up to one second it takes to tell of a lost carrier.
const DEADLINE: Duration = Duration::from_secs(10);
/// How soon a neighbour's new address must be known.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

const NEAR: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, 1]];
const FAR: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 2, 2]];
const MOVED: [u8; 6] = [2, 0, 0, 0, 9, 9];

#[test]
fn a_backend_on_the_link_is_found() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2", "fd00:1::2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        ear.hears_way("fd00:1::2", lab.way(0, FAR[0])).await;
    });
}

#[test]
fn a_backend_behind_a_gateway_is_reached_at_the_gateways_address() {
    in_lab(async |lab| {
        lab.ip("route add 172.16.0.0/16 via 10.2.0.2");
        lab.ip("route add 172.17.0.0/16 via inet6 fd00:1::2");
        let mut ear = lab.listen().await;
        ear.watch(&["172.16.5.5", "172.17.5.5"]);
        ear.hears_way("172.16.5.5", lab.way(1, FAR[1])).await;
        ear.hears_way("172.17.5.5", lab.way(0, FAR[0])).await;
    });
}

#[test]
fn a_neighbours_new_address_is_followed() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        // The far end changes its address and says so (gratuitous ARP); by default the kernel
        // ignores that for a second after an update (locktime).
        fs::write("/proc/sys/net/ipv4/neigh/eth0/locktime", "0").expect("root may");
        lab.far("echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify");
        lab.far("ip link set eth0 address 02:00:00:00:09:09");
        let followed = ear.hears_way("10.1.0.2", lab.way(0, MOVED));
        tokio::time::timeout(FOLLOWED_WITHIN, followed).await.expect("followed in time");
        lab.ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:01:02 dev eth0");
        let followed = ear.hears_way("10.1.0.2", lab.way(0, FAR[0]));
        tokio::time::timeout(FOLLOWED_WITHIN, followed).await.expect("followed in time");
    });
}

#[test]
fn our_own_new_address_is_followed() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        lab.ip("link set eth0 address 02:00:00:00:09:09");
        ear.hears_way("10.1.0.2", NextHop { source: MOVED, ..lab.way(0, FAR[0]) }).await;
    });
}

#[test]
fn a_route_that_moves_to_another_interface_is_followed() {
    in_lab(async |lab| {
        lab.ip("route add 172.16.0.0/16 via 10.1.0.2");
        let mut ear = lab.listen().await;
        ear.watch(&["172.16.5.5"]);
        ear.hears_way("172.16.5.5", lab.way(0, FAR[0])).await;
        lab.ip("route replace 172.16.0.0/16 via 10.2.0.2");
        ear.hears_way("172.16.5.5", lab.way(1, FAR[1])).await;
        lab.ip("route del 172.16.0.0/16");
        ear.hears_reason("172.16.5.5", "no route").await;
        lab.ip("route add blackhole 172.16.0.0/16");
        ear.hears_reason("172.16.5.5", "the route to 172.16.5.5 is a blackhole").await;
    });
}

#[test]
fn an_interface_that_goes_down_is_the_reason_until_it_is_back() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        lab.ip("link set eth0 down");
        ear.hears_reason("10.1.0.2", "no route: eth0 is down").await;
        lab.ip("link set eth0 up");
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        // Now the cable: our end stays switched on, and so does its route.
        lab.far("ip link set eth0 down");
        ear.hears_reason("10.1.0.2", "eth0 is down").await;
        lab.far("ip link set eth0 up");
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
    });
}

#[test]
fn a_silent_backend_is_named_and_found_when_it_wakes() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.77"]);
        ear.hears_reason("10.1.0.77", "waiting for 10.1.0.77 to answer ARP on eth0").await;
        ear.hears_reason("10.1.0.77", "10.1.0.77 does not answer ARP on eth0").await;
        lab.far("ip address add 10.1.0.77/24 dev eth0");
        ear.hears_way("10.1.0.77", lab.way(0, FAR[0])).await;
    });
}

#[test]
fn an_entry_that_the_kernel_forgets_is_fetched_again() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        lab.far("ip link set eth0 address 02:00:00:00:09:09");
        lab.ip("neigh flush dev eth0");
        ear.hears_way("10.1.0.2", lab.way(0, MOVED)).await;
    });
}

#[test]
fn addresses_without_a_way_say_why() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["203.0.113.9", "2001:db8::9", "10.1.0.1", "fd00:1::1", "10.1.0.255"]);
        ear.hears_reason("203.0.113.9", "no route").await;
        ear.hears_reason("2001:db8::9", "no route").await;
        ear.hears_reason("10.1.0.1", "10.1.0.1 is an address of this machine").await;
        ear.hears_reason("fd00:1::1", "fd00:1::1 is an address of this machine").await;
        ear.hears_reason("10.1.0.255", "10.1.0.255 is a broadcast address").await;
    });
}

#[test]
fn an_address_no_longer_watched_is_silent_and_one_put_back_is_told_again() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2", "10.2.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        ear.hears_way("10.2.0.2", lab.way(1, FAR[1])).await;
        // The report on a third address shows that the new set is in force.
        ear.watch(&["10.2.0.2", "203.0.113.9"]);
        ear.hears_reason("203.0.113.9", "no route").await;
        lab.ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:09:09 dev eth0");
        lab.ip("neigh replace 10.2.0.2 lladdr 02:00:00:00:09:09 dev eth1");
        ear.hears_way("10.2.0.2", lab.way(1, MOVED)).await;
        let of_the_first = |report: &NetlinkReport| subject(report) == Subject::Way(ip("10.1.0.2"));
        assert!(!ear.heard.iter().any(of_the_first), "{:?}", ear.heard);
        // Off and on again at one go.
        ear.watch(&[]);
        ear.watch(&["10.2.0.2"]);
        ear.hears_way("10.2.0.2", lab.way(1, MOVED)).await;
    });
}

#[test]
fn interfaces_are_reported_from_the_start_to_their_end() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        let named = |name: &'static str, up: bool, mtu: u32| {
            move |report: &NetlinkReport| {
                matches!(report, NetlinkReport::Link(link)
                    if link.name == name && link.up == up && link.mtu == mtu)
            }
        };
        ear.hears("eth0, up", named("eth0", true, 1500)).await;
        ear.hears("eth1, up", named("eth1", true, 1500)).await;
        lab.ip("link set eth1 mtu 1400");
        ear.hears("eth1 with another MTU", named("eth1", true, 1400)).await;
        lab.ip("link set eth1 down");
        ear.hears("eth1, down", named("eth1", false, 1400)).await;
        lab.ip("link del eth1");
        let gone = |report: &NetlinkReport| matches!(report, NetlinkReport::LinkGone { name, .. } if name == "eth1");
        ear.hears("eth1, gone", gone).await;
    });
}

#[test]
fn one_interface_is_looked_up_by_name() {
    in_lab(async |lab| {
        // The kernel takes a moment to declare a new link up.
        let up = |report: &NetlinkReport| matches!(report, NetlinkReport::Link(link) if link.name == "eth0" && link.up);
        lab.listen().await.hears("eth0, up", up).await;
        let expected = LinkReport {
            index: lab.index(0),
            name: "eth0".to_owned(),
            mac: NEAR[0],
            mtu: 1500,
            up: true,
            ethernet: true,
        };
        assert_eq!(interface("eth0").await.expect("it exists"), expected);
        assert!(!interface("lo").await.expect("it exists").ethernet);
        let error = interface("eth7").await.expect_err("there is none");
        assert!(matches!(error, Error::NoInterface { .. }));
        let text = error.to_string();
        assert!(text.starts_with("there is no interface \"eth7\"; this machine has "), "{text}");
        assert!(text.contains("eth0") && text.contains("eth1"), "{text}");
    });
}

#[test]
fn a_storm_of_routes_neither_hides_nor_delays_news() {
    in_lab(async |lab| {
        let mut ear = lab.listen().await;
        ear.watch(&["10.1.0.2"]);
        ear.hears_way("10.1.0.2", lab.way(0, FAR[0])).await;
        // While these come in this thread waits for `ip` and the resolver does not read: the
        // socket's buffer overruns, and what follows is lost but for the resync.
        let mut routes = String::new();
        for n in 0..20_000_u32 {
            writeln!(routes, "route add 172.16.{}.{}/32 via 10.2.0.2", n >> 8, n & 255)
                .expect("a String takes all");
        }
        let script = tempfile::NamedTempFile::new().expect("a file");
        fs::write(script.path(), routes).expect("written");
        lab.ip(&format!("-batch {}", script.path().display()));
        lab.ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:09:09 dev eth0");
        let followed = ear.hears_way("10.1.0.2", lab.way(0, MOVED));
        tokio::time::timeout(FOLLOWED_WITHIN, followed).await.expect("followed in time");
    });
}

/// More answers at once than the socket's buffer holds: what it loses must be found all the same.
#[test]
fn a_thousand_new_backends_at_once_are_all_found() {
    in_lab(async |lab| {
        let addresses: Vec<String> =
            (0..1000).map(|n| format!("10.1.{}.{}", 4 + n / 250, 1 + n % 250)).collect();
        let script = tempfile::NamedTempFile::new().expect("a temporary file");
        let lines: String = addresses.iter().fold(String::new(), |mut lines, address| {
            let _ = writeln!(lines, "addr add {address}/16 dev eth0");
            lines
        });
        fs::write(script.path(), lines).expect("the script is written");
        lab.far(&format!("ip -batch {}", script.path().display()));
        lab.ip("route add 10.1.0.0/16 dev eth0");
        let mut ear = lab.listen().await;
        ear.watch(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let mut missing: BTreeSet<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
        while !missing.is_empty() {
            let report = tokio::time::timeout(DEADLINE, ear.reports.recv()).await;
            let report = report.unwrap_or_else(|_| panic!("{} are never found", missing.len()));
            if let Some(NetlinkReport::NextHop(NextHopReport { address, outcome: Ok(_) })) = report
            {
                missing.remove(&address);
            }
        }
    });
}

/// The other end of the cables, and commands at both.
struct Lab {
    far: Child,
}

/// Runs a test in a namespace of its own, on a thread of its own.
fn in_lab(test: impl AsyncFnOnce(&Lab) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: making network namespaces needs root");
        return;
    }
    let run = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let lab = Lab::build();
        runtime.block_on(test(&lab));
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

impl Lab {
    fn build() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for the far end");
        let far = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep");
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for us");
        let lab = Self { far };
        lab.ip("link set lo up");
        for (cable, number) in [(0, 1), (1, 2)] {
            let pid = lab.far.id();
            lab.ip(&format!(
                "link add eth{cable} address 02:00:00:00:0{number}:01 type veth \
                 peer name eth{cable} address 02:00:00:00:0{number}:02 netns {pid}"
            ));
            lab.ip(&format!("address add 10.{number}.0.1/24 dev eth{cable}"));
            lab.ip(&format!("address add fd00:{number}::1/64 dev eth{cable} nodad"));
            lab.far(&format!("ip address add 10.{number}.0.2/24 dev eth{cable}"));
            lab.far(&format!("ip address add fd00:{number}::2/64 dev eth{cable} nodad"));
            lab.far(&format!("ip link set eth{cable} up"));
            lab.ip(&format!("link set eth{cable} up"));
        }
        lab
    }

    /// `ip` at our end.
    #[allow(clippy::unused_self, reason = "the commands need the lab to exist")]
    fn ip(&self, arguments: &str) {
        run("ip", &arguments.split_whitespace().collect::<Vec<_>>());
    }

    /// A command at the far end.
    fn far(&self, command: &str) {
        run("nsenter", &["-t", &self.far.id().to_string(), "-n", "sh", "-c", command]);
    }

    #[allow(clippy::unused_self, reason = "the index is one of this lab")]
    fn index(&self, cable: usize) -> u32 {
        nix::net::if_::if_nametoindex(format!("eth{cable}").as_str()).expect("it exists")
    }

    fn way(&self, cable: usize, destination: [u8; 6]) -> NextHop {
        let number = u8::try_from(cable + 1).expect("there are two");
        let local = Some(IpAddr::from([10, number, 0, 1]));
        let interface = self.index(cable);
        NextHop { interface, source: NEAR[cable], destination, local, mtu: 1500 }
    }

    async fn listen(&self) -> Ear {
        let (sender, reports) = mpsc::channel(16);
        let resolver = Resolver::start(sender).await.expect("netlink works");
        Ear { resolver, reports, heard: Vec::new() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.far.kill();
        let _ = self.far.wait();
    }
}

/// A resolver and what it said, as far as no test has used it.
struct Ear {
    resolver: Resolver,
    reports: mpsc::Receiver<NetlinkReport>,
    heard: Vec<NetlinkReport>,
}

impl Ear {
    fn watch(&self, addresses: &[&str]) {
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(|a| ip(a)).collect();
        self.resolver.watch(addresses);
    }

    /// Listens on until a report fits. It and older ones on the same subject are used up.
    async fn hears(&mut self, what: &str, fits: impl Fn(&NetlinkReport) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            if let Some(found) = self.heard.iter().position(&fits) {
                let about = subject(&self.heard[found]);
                let mut index = 0;
                self.heard.retain(|report| {
                    index += 1;
                    index > found + 1 || subject(report) != about
                });
                return;
            }
            match tokio::time::timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(report)) => self.heard.push(report),
                end => panic!("not heard ({end:?}): {what}; but {:#?}", self.heard),
            }
        }
    }

    /// `way` is the one of IPv4; over IPv6 its own address is another.
    async fn hears_way(&mut self, address: &str, mut way: NextHop) {
        if let (IpAddr::V6(_), Some(IpAddr::V4(local))) = (ip(address), way.local) {
            way.local = Some(ip(&format!("fd00:{}::1", local.octets()[1])));
        }
        self.hears_outcome(address, Ok(way)).await;
    }

    async fn hears_reason(&mut self, address: &str, reason: &str) {
        self.hears_outcome(address, Err(reason.to_owned())).await;
    }

    async fn hears_outcome(&mut self, address: &str, outcome: Result<NextHop, String>) {
        let what = format!("{address}: {outcome:?}");
        let expected = NetlinkReport::NextHop(NextHopReport { address: ip(address), outcome });
        self.hears(&what, |report| *report == expected).await;
    }
}

/// What a report is about.
#[derive(PartialEq, Eq)]
enum Subject {
    Way(IpAddr),
    Link(u32),
}

fn subject(report: &NetlinkReport) -> Subject {
    match report {
        NetlinkReport::NextHop(next_hop) => Subject::Way(next_hop.address),
        NetlinkReport::Link(LinkReport { index, .. }) | NetlinkReport::LinkGone { index, .. } => {
            Subject::Link(*index)
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
