//! VRRP between programs that know nothing of each other: keepalived beside keepalived, to trust
//! the lab, and keepalived beside weir, each as the preferred master.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::time::Duration;

use weir_lab::{
    Keepalived, Lab, Pair, Router, WeirRouter,
    sniffer::{Advert, Sniffer},
    tshark,
    vrrp::{ROUTER_ID, Vrrp},
};

const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(100);
/// The only intervals that version 2 knows are whole seconds.
const INTERVAL2: Duration = Duration::from_secs(1);

const FIRST: [bool; 2] = [true, false];
const SECOND: [bool; 2] = [false, true];
const BOTH: [bool; 2] = [true, true];

/// The programs of the first and the second balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Weir,
    Keepalived,
}
use Program::{Keepalived as K, Weir as W};

/// Two routers of a lab, and all that they say.
struct Scene {
    pair: Pair,
    programs: [Program; 2],
    sniffer: Sniffer,
    vrrp: Vrrp,
    lab: Lab,
}

impl Scene {
    /// Nothing runs yet.
    fn new(vrrp: &Vrrp, programs: [Program; 2], priorities: [u8; 2]) -> Self {
        Self::with_each(&[vrrp.clone(), vrrp.clone()], programs, priorities)
    }

    fn with_each(vrrp: &[Vrrp; 2], programs: [Program; 2], priorities: [u8; 2]) -> Self {
        weir_lab::require_root().unwrap();
        let lab = Lab::builder().balancers(2).backends(1).unclaimed_vip().build().unwrap();
        let router = |index: usize| -> Box<dyn Router> {
            let member = vrrp[index].member(&lab, index, priorities[index]);
            let balancer = &lab.balancers()[index];
            match programs[index] {
                W => Box::new(WeirRouter::new(balancer, member, &balancer.config(&[]))),
                K => Box::new(Keepalived::new(member).unwrap()),
            }
        };
        let pair = Pair([router(0), router(1)]);
        let sniffer = lab.sniff().unwrap();
        Self { pair, programs, sniffer, vrrp: vrrp[0].clone(), lab }
    }

    /// Both run, and the owner is as it should be.
    fn started(vrrp: &Vrrp, programs: [Program; 2], priorities: [u8; 2], owner: [bool; 2]) -> Self {
        let mut scene = Self::new(vrrp, programs, priorities);
        scene.pair.start().unwrap();
        scene.expect(owner);
        scene
    }

    /// Waits until the VIP is where it should be, and reached there.
    fn expect(&self, owners: [bool; 2]) {
        self.pair.wait_for_owners(owners, PATIENCE).unwrap();
        if owners != BOTH {
            // The client still has the former owner's MAC address, unless it was told better.
            let vip = self.vrrp.vip(&self.lab).to_string();
            let ping = ["ping", "-c", "10", "-i", "0.1", "-W", "1", &vip];
            let answer = self.lab.client().namespace().run(&ping);
            let log = || format!("{}\n{}", self.pair.0[0].log(), self.pair.0[1].log());
            assert!(answer.is_ok(), "{answer:?}\n{}", log());
        }
    }

    /// Ends a power-off of the first, and waits until the second has given the VIP back.
    ///
    /// The first has never let go of it, and need not have heard of another master: it has no
    /// reason to announce itself, so the client may well go on asking the second for a while.
    fn power_on(&self, owners: [bool; 2]) {
        self.lab.power_on("balancer").unwrap();
        self.pair.wait_for_owners(owners, PATIENCE).unwrap();
    }

    /// Waits for more adverts of a balancer than there are, as many as make its peer sure.
    fn adverts_of(&self, index: usize) -> Vec<Advert> {
        let role = ["balancer", "balancer2"][index];
        let from = |adverts: Vec<Advert>| {
            adverts.into_iter().filter(|a| &*a.from == role).collect::<Vec<_>>()
        };
        let before = from(self.sniffer.adverts().unwrap()).len();
        let enough = || Ok(from(self.sniffer.adverts()?).len() >= before + 5);
        self.pair.wait_for(PATIENCE, &format!("more adverts of {role}"), enough).unwrap();
        from(self.sniffer.adverts().unwrap()).split_off(before)
    }

    /// Stops a router in order; the adverts must say so.
    fn stop(&mut self, index: usize) {
        self.pair.0[index].stop().unwrap();
        let role = ["balancer", "balancer2"][index];
        let left = |advert: &Advert| &*advert.from == role && advert.priority == 0;
        assert!(self.sniffer.adverts().unwrap().iter().any(left), "{role} left without a word");
    }

    /// An independent decoder finds no fault with anything that weir sent.
    fn finish(self) {
        let mut frames = self.sniffer.frames();
        frames.retain(|frame| {
            let first = &*frame.from == "balancer";
            self.programs[usize::from(!first)] == W
        });
        tshark::check_adverts(&frames, self.lab.directory()).unwrap();
    }
}

#[test]
fn two_keepalived_agree_so_the_lab_is_sound() {
    let mut scene = Scene::started(&Vrrp::new(INTERVAL), [K, K], [150, 100], FIRST);
    let adverts = scene.adverts_of(0);
    for advert in adverts {
        assert_eq!((advert.version, advert.router_id, advert.priority), (3, ROUTER_ID, 150));
        assert_eq!(advert.interval, INTERVAL);
    }
    scene.lab.power_off("balancer").unwrap();
    scene.expect(BOTH);
    scene.power_on(FIRST);
    scene.stop(0);
    scene.expect(SECOND);

    let mut frames = scene.sniffer.frames();
    tshark::check_adverts(&frames, scene.lab.directory()).unwrap();
    // A wrong checksum does not escape it.
    *frames.last_mut().unwrap().bytes.last_mut().unwrap() ^= 1;
    let fault = tshark::check_adverts(&frames, scene.lab.directory()).unwrap_err().to_string();
    assert!(fault.contains("finds fault"), "{fault}");
}

/// The first is preferred: it has the VIP, loses it in each way that there is, and gets it back.
fn the_vip_follows_the_preferred_master(vrrp: &Vrrp, programs: [Program; 2]) {
    let mut scene = Scene::started(vrrp, programs, [150, 100], FIRST);
    for advert in scene.adverts_of(0) {
        assert_eq!((advert.priority, advert.interval), (150, vrrp.interval()), "{advert:?}");
    }

    scene.stop(0);
    scene.expect(SECOND);
    scene.pair.0[0].start().unwrap();
    scene.expect(FIRST);

    scene.lab.power_off("balancer").unwrap();
    scene.expect(BOTH);
    scene.power_on(FIRST);

    scene.pair.0[0].kill();
    scene.expect(BOTH);
    scene.pair.0[0].start().unwrap();
    scene.expect(FIRST);
    scene.finish();
}

#[test]
fn weir_as_master_and_keepalived_as_backup_in_version_3() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL), [W, K]);
}

#[test]
fn keepalived_as_master_and_weir_as_backup_in_version_3() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL), [K, W]);
}

#[test]
fn weir_as_master_and_keepalived_as_backup_over_ipv6() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL).ipv6(), [W, K]);
}

#[test]
fn keepalived_as_master_and_weir_as_backup_over_ipv6() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL).ipv6(), [K, W]);
}

#[test]
fn weir_as_master_and_keepalived_as_backup_by_unicast() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL).unicast(), [W, K]);
}

#[test]
fn keepalived_as_master_and_weir_as_backup_by_unicast() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL).unicast(), [K, W]);
}

#[test]
fn weir_as_master_and_keepalived_as_backup_in_version_2_with_a_password() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL2).version2("s3cret"), [W, K]);
}

#[test]
fn keepalived_as_master_and_weir_as_backup_in_version_2_with_a_password() {
    the_vip_follows_the_preferred_master(&Vrrp::new(INTERVAL2).version2("s3cret"), [K, W]);
}

#[test]
fn unicast_adverts_go_to_the_peer_alone() {
    let scene = Scene::started(&Vrrp::new(INTERVAL).unicast(), [W, K], [150, 100], FIRST);
    let [own, peer] = [0, 1].map(|index: usize| scene.lab.balancers()[index].address());
    for advert in scene.adverts_of(0) {
        assert_eq!((advert.source, advert.destination), (own.into(), peer.into()));
    }
    scene.finish();
}

/// Of a higher priority, but of another password: for weir it is not there. (keepalived, for its
/// part, lets each advert that it refuses put off its own.)
#[test]
fn a_master_with_another_password_is_ignored() {
    let vrrp = |password| Vrrp::new(INTERVAL2).version2(password);
    let mut scene = Scene::with_each(&[vrrp("other"), vrrp("s3cret")], [K, W], [150, 100]);
    scene.pair.0[0].start().unwrap();
    scene.expect(FIRST);
    scene.pair.0[1].start().unwrap();
    scene.expect(BOTH);
    let adverts = scene.sniffer.adverts().unwrap();
    assert!(adverts.iter().any(|advert| advert.priority == 150), "heard, and not believed");
    scene.adverts_of(1);
    assert_eq!(scene.pair.owners().unwrap(), BOTH);
    scene.finish();
}

/// A preferred router that must not preempt leaves the VIP to a lower one, until that one goes.
fn without_preemption_the_vip_stays(programs: [Program; 2]) {
    let vrrp = Vrrp::new(INTERVAL).without_preemption();
    let mut scene = Scene::new(&vrrp, programs, [150, 100]);
    scene.pair.0[1].start().unwrap();
    scene.expect(SECOND);
    scene.pair.0[0].start().unwrap();
    scene.adverts_of(1);
    scene.expect(SECOND);
    scene.stop(1);
    scene.expect(FIRST);
    scene.pair.0[1].start().unwrap();
    scene.adverts_of(0);
    scene.expect(FIRST);
    scene.finish();
}

#[test]
fn weir_that_must_not_preempt_leaves_keepalived_alone() {
    without_preemption_the_vip_stays([W, K]);
}

#[test]
fn keepalived_that_must_not_preempt_leaves_weir_alone() {
    without_preemption_the_vip_stays([K, W]);
}

/// Of two masters of one priority, which only a cut makes, the one with the higher address stays.
fn the_higher_address_wins(programs: [Program; 2]) {
    let mut scene = Scene::new(&Vrrp::new(INTERVAL), programs, [100, 100]);
    scene.lab.power_off("balancer").unwrap();
    scene.pair.start().unwrap();
    scene.expect(BOTH);
    scene.power_on(SECOND);
    scene.finish();
}

#[test]
fn weir_yields_to_a_higher_address() {
    the_higher_address_wins([W, K]);
}

#[test]
fn keepalived_yields_to_a_higher_address() {
    the_higher_address_wins([K, W]);
}

#[test]
fn a_planned_switch_goes_there_and_back() {
    let mut scene = Scene::started(&Vrrp::new(INTERVAL), [W, K], [150, 100], FIRST);
    scene.pair.0[0].release().unwrap();
    scene.expect(SECOND);
    scene.adverts_of(1);
    scene.expect(SECOND);
    scene.pair.0[0].reclaim().unwrap();
    scene.expect(FIRST);
    scene.finish();
}
