//! Instances with packets in place of adverts: what is wrong changes nothing, what differs is told
//! once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::SystemTime;

use super::*;
use crate::{
    config::{Garp, Name, Prefix},
    vrrp::{
        auth::{Authentication, Password},
        packet::{
            GROUP_V4, HOP_LIMIT, Version,
            tests::{Hostile, ROUTER_ID, advert, filter, format, hostile},
        },
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn spec(version: Version) -> Vrrp {
    let Filter { addresses, authentication, .. } = filter(version);
    Vrrp {
        name: Name::new("front").unwrap(),
        interface: "eth0".to_owned(),
        router_id: ROUTER_ID,
        version,
        priority: 100,
        interval: SECOND,
        coverage: format(version).coverage,
        preempt: true,
        preempt_delay: Duration::ZERO,
        addresses: addresses.into_iter().map(|address| Prefix { address, length: 24 }).collect(),
        unicast_peers: Vec::new(),
        authentication,
        sync_group: None,
        garp: Garp { repeat: 5, refresh: Duration::ZERO },
        virtual_mac: false,
        track: Vec::new(),
    }
}

/// An instance that has started as backup at time 0.
fn backup(version: Version) -> Instance {
    let epoch = Now { monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
    let mut instance = Instance::new(spec(version), None, epoch);
    let local = filter(version).own;
    let outputs = instance.assess(Assessment::default(), Some(local[0]), local, Duration::ZERO);
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    assert_eq!(instance.fsm.state(), State::Backup);
    instance
}

fn feed(instance: &mut Instance, hostile: &Hostile, now: Duration) -> Vec<Output> {
    let Hostile { source, hop_limit, message, .. } = hostile;
    let destination = GROUP_V4.into();
    let datagram = Datagram { source: *source, destination, hop_limit: *hop_limit, message };
    instance.receive(Ok(datagram), now).0
}

/// The master of the segment speaks.
fn feed_advert(instance: &mut Instance, version: Version, priority: u8, now: Duration) {
    let source = "10.0.0.2".parse().unwrap();
    let advert = Advert { priority, ..advert() };
    let message = advert.message(&format(version), source, GROUP_V4.into());
    let datagram =
        Datagram { source, destination: GROUP_V4.into(), hop_limit: HOP_LIMIT, message: &message };
    instance.receive(Ok(datagram), now);
}

#[test]
fn junk_at_twice_the_advert_rate_changes_neither_state_nor_cadence() {
    let junk = hostile();
    for version in [Version::V2, Version::V3] {
        let junk: Vec<_> = junk.iter().filter(|hostile| hostile.version == version).collect();
        let (mut flooded, mut quiet) = (backup(version), backup(version));
        let mut fed = 0;
        // Backup of a master that speaks once a second and stops after a minute; then master. All
        // the while two packets of junk come between two adverts.
        for half_second in 0..240_u32 {
            let now = SECOND * half_second / 2;
            let hostile = junk[half_second as usize % junk.len()];
            assert_eq!(feed(&mut flooded, hostile, now), [], "{}", hostile.what);
            fed += 1;
            if half_second < 120 && half_second.is_multiple_of(2) {
                for instance in [&mut flooded, &mut quiet] {
                    feed_advert(instance, version, 150, now);
                }
            }
            assert_eq!(flooded.fsm.deadline(), quiet.fsm.deadline(), "{}", hostile.what);
            for step in 0..500 {
                let now = now + Duration::from_millis(step);
                let outputs = flooded.fsm.handle(Input::Timer, now);
                assert_eq!(outputs, quiet.fsm.handle(Input::Timer, now), "at {now:?}");
            }
        }
        assert_eq!(flooded.fsm.state(), State::Master);
        let counted: u64 = flooded.status().discarded.values().sum();
        assert_eq!(counted, fed, "each is counted");
        assert_eq!(flooded.status().received, 60);
    }
}

#[test]
fn each_reason_is_counted_by_its_name() {
    let mut instance = backup(Version::V3);
    let junk = hostile();
    for hostile in junk.iter().filter(|hostile| hostile.version == Version::V3) {
        let before = instance.status().discarded.get(hostile.expected.name()).copied();
        feed(&mut instance, hostile, SECOND);
        let after = instance.status().discarded[hostile.expected.name()];
        assert_eq!(after, before.unwrap_or(0) + 1, "{}", hostile.what);
    }
    assert_eq!(instance.receive(Err(Discard::IpHeader), SECOND).0, []);
    assert_eq!(instance.status().discarded["ip_header"], 1);
}

#[test]
fn a_router_that_is_configured_differently_is_told_of_once_an_hour() {
    let mut instance = backup(Version::V2);
    let (source, group) = ("10.0.0.2".parse().unwrap(), GROUP_V4.into());
    let password = Password::new("another").unwrap();
    let format = Format { authentication: Authentication::Simple(password), ..format(Version::V2) };
    let message = advert().message(&format, source, group);
    let datagram = Datagram { source, destination: group, hop_limit: HOP_LIMIT, message: &message };
    let mut hear = |now| instance.receive(Ok(datagram), now).1;
    let note = "adverts of 10.0.0.2 are discarded: its password is another";
    assert_eq!(hear(SECOND), Some(Told::Note(note.to_owned())));
    assert!((2..3600).all(|seconds| hear(SECOND * seconds).is_none()));
    assert!(hear(SECOND * 3601).is_some());
    // Nonsense says nothing of how anybody is configured.
    let far = Datagram { hop_limit: 254, ..datagram };
    assert_eq!(instance.receive(Ok(far), SECOND).1, None);
    assert_eq!(instance.status().discarded["password"], 3600);
}

#[test]
fn another_interval_and_other_addresses_are_learned_and_told_once() {
    let mut instance = backup(Version::V3);
    let source: IpAddr = "10.0.0.2".parse().unwrap();
    let interval = Duration::from_millis(100);
    let addresses = vec!["192.0.2.99".parse().unwrap()];
    let other = Advert { interval, addresses, ..advert() };
    let message = other.message(&format(Version::V3), source, GROUP_V4.into());
    let datagram =
        Datagram { source, destination: GROUP_V4.into(), hop_limit: HOP_LIMIT, message: &message };
    let (_, told) = instance.receive(Ok(datagram), SECOND);
    let expected = "10.0.0.2 advertises an interval of 100ms, ours is 1s and other addresses than \
                    ours: 192.0.2.99";
    assert_eq!(told, Some(Told::Note(expected.to_owned())));
    assert_eq!(instance.receive(Ok(datagram), SECOND).1, None);
    // 3 × 100 ms and 156/256 of 100 ms: what was learned counts.
    assert_eq!(instance.fsm.deadline(), Some(SECOND + Duration::from_nanos(360_937_500)));
}

#[test]
fn penalties_lower_the_priority_and_faults_end_it() {
    let mut instance = backup(Version::V3);
    let local = filter(Version::V3).own;
    let assess = |instance: &mut Instance, fault: Option<&str>, penalty: u8| {
        let penalties = BTreeMap::from([("it fails".to_owned(), penalty)]);
        let fault = fault.map(str::to_owned);
        let assessment = Assessment { fault, penalties, ..Assessment::default() };
        instance.assess(assessment, Some(local[0]), local.clone(), SECOND)
    };
    assess(&mut instance, None, 30);
    assert_eq!(instance.status().priority, 70);
    assess(&mut instance, None, 254);
    assert_eq!(instance.status().priority, 1, "never 0, which says that it leaves");
    let outputs = assess(&mut instance, Some("eth0 is down"), 0);
    assert!(matches!(outputs[..], [Output::Withdraw, Output::Changed { .. }]), "{outputs:?}");
    assert_eq!(instance.fsm.fault(), Some("eth0 is down"));
}
