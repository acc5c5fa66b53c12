//! Two balancers with the same tables, and connections that go from one to the other.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{net::SocketAddr, thread, time::Duration};

use weir::{
    core::{BackendState, SyncRole, SyncStatus},
    sync::Key,
};
use weir_lab::{Lab, Service, Weir, backend::LINE_PORT};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const SERVICE: &str = "hold";
const IDLE: Duration = Duration::from_secs(5);

/// Two daemons that are to have the same tables.
struct Pair<'a> {
    first: Weir,
    second: Weir,
    lab: &'a Lab,
}

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(4).balancers(2).build().unwrap()
}

fn service(lab: &Lab) -> Service {
    lab.service(SERVICE, LINE_PORT)
        .without("b4")
        .set("idle_timeout", &format!("\"{}s\"", IDLE.as_secs()))
        .health("type = \"tcp\"\ninterval = \"500ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2")
}

fn config(lab: &Lab, position: usize, service: &Service, key: &Key) -> String {
    let balancer = &lab.balancers()[position];
    let sync = balancer.sync_section(key, lab.balancers()).unwrap();
    balancer.config(std::slice::from_ref(service)) + &sync
}

impl<'a> Pair<'a> {
    fn start(lab: &'a Lab) -> Self {
        Self::of(lab, &service(lab))
    }

    fn of(lab: &'a Lab, service: &Service) -> Self {
        let key = Key::generate();
        let [first, second] = [0, 1].map(|index| &lab.balancers()[index]);
        let pair = Self {
            first: first.start_weir(&config(lab, 0, service, &key)).unwrap(),
            second: second.start_weir(&config(lab, 1, service, &key)).unwrap(),
            lab,
        };
        pair.first.wait_until_up().unwrap();
        pair.second.wait_until_up().unwrap();
        pair.wait_until_same();
        pair
    }

    /// Waits until both have the same tables, twice in a row.
    fn wait_until_same(&self) -> String {
        let same = |status: &weir::core::Status| {
            let (ours, theirs) = (status.sync.as_ref().unwrap(), sync(&self.second));
            ours.digest == theirs.digest
                && [ours, &theirs]
                    .iter()
                    .all(|sync| sync.synced && sync.services_differ == 0 && sync.peers[0].connected)
        };
        self.first.wait_until(PATIENCE, "the same tables", same).unwrap();
        sync(&self.first).digest
    }

    /// Where both send a few hundred flows; the same, or it panics.
    fn wait_until_both_say_the_same(&self) {
        for port in 20_000..20_040 {
            let source: SocketAddr = ([10, 77, 0, 10], port).into();
            let ways = [&self.first, &self.second]
                .map(|weir| weir.explain("tcp", source, self.lab.vip(LINE_PORT)).unwrap().backend);
            assert_eq!(ways[0], ways[1], "source port {port}");
        }
    }

    /// Has the client send what is for the VIP to another balancer.
    fn move_vip_to(&self, number: u8) {
        let mac = format!("02:77:00:00:00:0{number}");
        let vip = self.lab.vip(LINE_PORT).ip().to_string();
        let words = ["ip", "neigh", "replace", &vip, "lladdr", &mac, "dev", "eth0", "nud"];
        let words: Vec<&str> = words.into_iter().chain(["permanent"]).collect();
        self.lab.client().namespace().run(&words).unwrap();
    }

    fn packets(weir: &Weir) -> u64 {
        weir.status().unwrap().services[0].packets
    }
}

fn sync(weir: &Weir) -> SyncStatus {
    weir.status().unwrap().sync.expect("there is a [sync]")
}

fn tracked(weir: &Weir) -> u64 {
    weir.status().unwrap().services[0].backends.iter().map(|backend| backend.tracked_flows).sum()
}

fn slots_of(weir: &Weir, backend: &str) -> u32 {
    weir.backend(SERVICE, backend).map_or(0, |backend| backend.slots)
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(LOOK_AGAIN);
    }
}

#[test]
fn what_the_leader_does_the_follower_has() {
    let lab = lab();
    let pair = Pair::start(&lab);
    assert_eq!(sync(&pair.first).role, SyncRole::Leader, "the smaller name");
    assert_eq!(sync(&pair.second).role, SyncRole::Follower);
    assert_eq!(sync(&pair.second).leader.as_deref(), Some("balancer"));
    pair.wait_until_both_say_the_same();
    let mut seen = vec![pair.wait_until_same()];

    let b4 = lab.backend("b4").address().to_string();
    pair.first.cli(&["backend", "add", SERVICE, "b4", "--address", &b4]).unwrap();
    wait_until("b4 has slots on both", || {
        slots_of(&pair.first, "b4") > 0 && slots_of(&pair.second, "b4") > 0
    });
    seen.push(pair.wait_until_same());
    pair.wait_until_both_say_the_same();

    // A command to the follower is the leader's to carry out.
    pair.second.cli(&["backend", "drain", SERVICE, "b2"]).unwrap();
    wait_until("b2 has no slots on either", || {
        slots_of(&pair.first, "b2") == 0 && slots_of(&pair.second, "b2") == 0
    });
    seen.push(pair.wait_until_same());

    lab.backend("b3").kill();
    pair.first.wait_until_is(SERVICE, "b3", BackendState::Down, PATIENCE).unwrap();
    wait_until("b3 has no slots on the follower", || slots_of(&pair.second, "b3") == 0);
    seen.push(pair.wait_until_same());
    pair.wait_until_both_say_the_same();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "each of these changed the tables");

    let metrics = pair.second.admin("/metrics").unwrap().body;
    assert!(metrics.contains("weir_sync_connected{peer=\"10.77.0.2:9751\"} 1"), "{metrics}");
    assert!(metrics.contains("weir_table_digest_mismatch 0"), "{metrics}");
    assert!(metrics.contains("weir_sync_lag_seconds{peer=\"10.77.0.2:9751\"}"), "{metrics}");
}

#[test]
fn connections_outlive_a_failover_in_the_middle_of_a_move() {
    let lab = lab();
    let mut pair = Pair::start(&lab);
    pair.move_vip_to(2);
    let control = lab.backend("b1").socket(LINE_PORT);
    let period = Duration::from_millis(300);
    let held = lab.client().hold(lab.vip(LINE_PORT), control, 300, period).unwrap();
    held.begin();

    let b4 = lab.backend("b4").address().to_string();
    pair.first.cli(&["backend", "add", SERVICE, "b4", "--address", &b4]).unwrap();
    wait_until("b4 has slots on both", || slots_of(&pair.second, "b4") > 0);
    held.renew(60);
    held.wait_until_answered(PATIENCE).unwrap();
    wait_until("flows are told of", || sync(&pair.second).flows_received > 0);

    // The first balancer goes, while slots move.
    let before = Pair::packets(&pair.second);
    pair.move_vip_to(3);
    pair.first.kill();
    held.wait_until_answered(PATIENCE).unwrap();
    assert!(Pair::packets(&pair.second) > before, "the second balancer forwards now");
    wait_until("the second leads", || sync(&pair.second).role == SyncRole::Leader);

    // Its moves end, and connections are where they were.
    wait_until("no slot moves", || {
        held.wait_until_answered(PATIENCE).unwrap();
        pair.second.status().unwrap().services[0].slots.moving == 0
    });
    held.wait_until_answered(PATIENCE).unwrap();
    assert_eq!(held.account().broken(|_| true).number, 0, "{:?}", held.account());

    // Back to the first, which has taken over the tables of the second first.
    pair.second.cli(&["backend", "drain", SERVICE, "b2"]).unwrap();
    pair.first.start().unwrap();
    pair.wait_until_same();
    assert_eq!(sync(&pair.first).role, SyncRole::Leader);
    pair.move_vip_to(2);
    held.wait_until_answered(PATIENCE).unwrap();
    assert_eq!(held.account().broken(|_| true).number, 0, "{:?}", held.account());
}

#[test]
fn flows_balanced_one_by_one_are_where_they_were_after_a_failover() {
    const HELD: usize = 60;
    for algorithm in ["round_robin", "least_conn"] {
        let lab = lab();
        let each = service(&lab).set("algorithm", &format!("\"{algorithm}\""));
        let mut pair = Pair::of(&lab, &each);
        pair.move_vip_to(2);
        let control = lab.backend("b1").socket(LINE_PORT);
        let period = Duration::from_millis(200);
        let held = lab.client().hold(lab.vip(LINE_PORT), control, HELD, period).unwrap();
        held.begin();
        wait_until("every flow is recorded on both", || {
            [&pair.first, &pair.second].iter().all(|weir| tracked(weir) >= HELD as u64)
        });

        // By the ring alone, two of three would go elsewhere.
        pair.move_vip_to(3);
        pair.first.kill();
        held.wait_until_answered(PATIENCE).unwrap();
        assert_eq!(held.account().broken(|_| true).number, 0, "{algorithm}: {:?}", held.account());

        // And back, with flows that the second balancer gave out alone.
        held.renew(HELD / 2);
        held.wait_until_answered(PATIENCE).unwrap();
        pair.first.start().unwrap();
        pair.wait_until_same();
        wait_until("every flow is recorded on the first", || tracked(&pair.first) >= HELD as u64);
        pair.move_vip_to(2);
        held.wait_until_answered(PATIENCE).unwrap();
        assert_eq!(held.account().broken(|_| true).number, 0, "{algorithm}: {:?}", held.account());
    }
}

#[test]
fn configurations_that_differ_are_named_and_a_lost_peer_is_found_again() {
    let lab = lab();
    let mut pair = Pair::start(&lab);
    let other = config(&lab, 1, &service(&lab).weight("b1", 7), &Key::generate());
    pair.second.reload(&other).unwrap();
    let differs = |weir: &Weir| sync(weir).peers[0].config_differs.join(" ");
    wait_until("both say what differs", || {
        differs(&pair.first).contains("backend b1") && differs(&pair.second).contains("weight 7")
    });

    pair.second.kill();
    wait_until("the peer is lost", || !sync(&pair.first).peers[0].connected);
    pair.second.configure(&config(&lab, 1, &service(&lab), &Key::generate())).unwrap();
    pair.second.start().unwrap();
    pair.wait_until_same();
    assert_eq!(differs(&pair.first), "");
}
