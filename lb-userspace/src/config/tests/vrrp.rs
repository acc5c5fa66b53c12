//! `[[vrrp]]`: what a good one means, and everything that is wrong with others.

use std::time::Duration;

use super::{
    faults::{check, faults},
    *,
};
use crate::vrrp::{
    auth::{Authentication, Password},
    packet::{Coverage, Version},
};

/// A good file with an instance; what a test adds to it starts on line 12.
const INSTANCE: &str = r#"[[interface]]
name = "eth0"
[[service]]
name = "web"
address = "192.0.2.1"
port = 80
[[vrrp]]
name = "front"
interface = "eth0"
router_id = 51
addresses = ["192.0.2.10/24"]
"#;

fn instance(lines: &str) -> Vrrp {
    read(&format!("{INSTANCE}{lines}")).vrrp.remove(0)
}

#[test]
fn defaults() {
    let prefix = Prefix { address: "192.0.2.10".parse().unwrap(), length: 24 };
    let expected = Vrrp {
        name: Name::new("front").unwrap(),
        interface: "eth0".to_owned(),
        router_id: 51,
        version: Version::V3,
        priority: 100,
        interval: Duration::from_millis(100),
        coverage: Coverage::PseudoHeader,
        preempt: true,
        preempt_delay: Duration::ZERO,
        addresses: vec![prefix],
        unicast_peers: Vec::new(),
        authentication: Authentication::None,
        sync_group: None,
        garp: Garp { repeat: 5, refresh: Duration::ZERO },
        virtual_mac: false,
        track: Vec::new(),
    };
    assert_eq!(instance(""), expected);
    assert_eq!(
        instance("unicast_peers = []\npassword = \"\"\nsync_group = \"\"\nvirtual_mac = false"),
        expected
    );
    assert_eq!(instance("version = 2").interval, Duration::from_secs(1));
    assert_eq!(read(SERVICE).vrrp, []);
}

#[test]
fn a_virtual_router_has_an_interface_of_its_own() {
    let plain = instance("");
    assert_eq!((plain.home().as_str(), is_virtual_home("eth0")), ("eth0", false));
    assert!(plain.placed().eq(plain.addresses.iter().copied()));
    let one = instance("virtual_mac = true");
    let home = one.home();
    assert!(home.starts_with("vrrp4-51-") && home.len() < 16, "{home}");
    assert!(is_virtual_home(&home));
    assert_eq!(one.placed().map(|prefix| prefix.length).collect::<Vec<_>>(), [32]);
    let other = Vrrp { interface: "bond0.100.200xx".to_owned(), router_id: 255, ..one };
    assert_ne!(other.home()[9..], home[9..]);
    assert!(other.home().len() < 16 && is_virtual_home(&other.home()));
    for foreign in
        ["vrrp.51", "vrrp4", "vrrp4-51", "vrrp4-510-abcd", "vrrp4-51-abcg", "vrrp4-51-abcd0"]
    {
        assert!(!is_virtual_home(foreign), "{foreign}");
    }
}

#[test]
fn everything_that_can_be_said() {
    let two = instance(
        "version = 2\npriority = 255\ninterval = \"3s\"\npreempt = false\npreempt_delay = \"1m\"\n\
         unicast_peers = [\"10.0.0.2\", \"10.0.0.3\"]\npassword = \"secret\"\nsync_group = \"all\"\n\
         garp = { repeat = 1, refresh = \"1m\" }",
    );
    assert_eq!((two.version, two.priority), (Version::V2, 255));
    assert_eq!(two.interval, Duration::from_secs(3));
    assert_eq!((two.preempt, two.preempt_delay), (false, Duration::from_secs(60)));
    assert_eq!(two.unicast_peers.len(), 2);
    assert_eq!(two.authentication, Authentication::Simple(Password::new("secret").unwrap()));
    assert_eq!(two.sync_group, Some(Name::new("all").unwrap()));
    assert_eq!(two.garp, Garp { repeat: 1, refresh: Duration::from_secs(60) });
    assert_eq!(instance("checksum = \"message\"").coverage, Coverage::Message);
    assert_eq!(instance("interval = \"40.95s\"").interval, Duration::from_millis(40_950));
}

#[test]
fn tracked_conditions() {
    let script = TrackScript {
        command: vec!["/bin/ok".to_owned(), "-v".to_owned()],
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    let web = Name::new("web").unwrap();
    let track = |what, penalty| Track { what, penalty };
    assert_eq!(
        instance(
            "track = [{ interface = \"eth1\" }, { service = \"web\" }, \
             { interface = \"eth2\", penalty = 9 }, { script = [\"/bin/ok\", \"-v\"] }]"
        )
        .track,
        [
            track(Tracked::Interface("eth1".to_owned()), None),
            track(Tracked::Service(web), Some(50)),
            track(Tracked::Interface("eth2".to_owned()), Some(9)),
            track(Tracked::Script(script), Some(20)),
        ]
    );
}

#[test]
fn faults_of_an_instance() {
    let cases: &[(&str, &str)] = &[
        ("version = 4", "12:11: version: found 4, expected a whole number from 2 to 3"),
        ("priority = 0", "12:12: priority: found 0, expected a whole number from 1 to 255"),
        (
            "interval = \"5ms\"",
            "12:12: interval: found \"5ms\", expected a duration from 10ms to 40950ms",
        ),
        (
            "interval = \"15ms\"",
            "12:12: interval: found \"15ms\", expected a multiple of 10ms, in which adverts tell it",
        ),
        (
            "version = 2\ninterval = \"1500ms\"",
            "13:12: interval: found \"1500ms\", expected a multiple of 1s, in which adverts tell it",
        ),
        (
            "version = 2\ninterval = \"100ms\"",
            "13:12: interval: found \"100ms\", expected a duration from 1s to 255s",
        ),
        (
            "password = \"secret\"",
            "12:12: password belongs to version = 2; version 3 has no authentication",
        ),
        (
            "version = 2\npassword = \"too long for it\"",
            "13:12: password: expected a text of up to 8 ASCII characters without spaces",
        ),
        (
            "version = 2\nchecksum = \"message\"",
            "13:12: checksum is a choice of version 3 over IPv4 alone; leave it out",
        ),
        (
            "unicast_peers = [\"fe80::2\"]",
            "12:17: unicast_peers: fe80::2 is not of the addresses' family",
        ),
        (
            "unicast_peers = [\"192.0.2.10\"]",
            "12:17: unicast_peers: 192.0.2.10 is one of the instance's addresses",
        ),
        (
            "unicast_peers = [\"10.0.0.3\"]\nvirtual_mac = true",
            "13:15: virtual_mac = true needs adverts by multicast, which tell switches where the \
             address is; leave unicast_peers out",
        ),
        (
            "garp = { refresh = \"10ms\" }",
            "12:20: refresh: expected \"0s\" for never, or at least \"1s\"",
        ),
        ("track = [{ service = \"wep\" }]", "12:22: track: there is no service \"wep\""),
        (
            "track = [{ penalty = 3 }]",
            "12:10: track: each condition names one of interface, service or script",
        ),
        (
            "track = [{ interface = \"eth1\", rise = 3 }]",
            "12:32: rise belongs to a tracked script, which this is not",
        ),
        (
            "track = [{ script = [\"ok\"] }]",
            "12:21: script: the program is named by an absolute path",
        ),
        (
            "track = [{ script = [\"/ok\"], interval = \"1s\", timeout = \"2s\" }]",
            "12:57: timeout: found \"2s\", expected at most the interval, which is \"1s\"",
        ),
        (
            "colour = 1",
            "12:1: unknown key \"colour\" in [[vrrp]]; known are name, interface, \
          router_id, version, priority, interval, preempt, preempt_delay, addresses, checksum, \
          unicast_peers, password, sync_group, garp, track, virtual_mac",
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(faults(&format!("{INSTANCE}{lines}")), [*expected], "\n{lines}");
    }
}

#[test]
fn faults_of_addresses() {
    let expected_prefix = "expected an address with its prefix length, such as \"192.0.2.10/24\" or \
                           \"2001:db8::10/64\"";
    let addresses: &[(&str, &str)] = &[
        ("[]", "found an empty list, expected a list of addresses such as [\"192.0.2.10/24\"]"),
        ("[\"192.0.2.10\"]", &format!("found \"192.0.2.10\", {expected_prefix}")),
        ("[\"192.0.2.10/33\"]", &format!("found \"192.0.2.10/33\", {expected_prefix}")),
        ("[\"192.0.2.10/0\"]", &format!("found \"192.0.2.10/0\", {expected_prefix}")),
        ("[\"192.0.2.10/+8\"]", &format!("found \"192.0.2.10/+8\", {expected_prefix}")),
        (
            "[\"224.0.0.18/24\"]",
            "found \"224.0.0.18/24\", a multicast address; expected the address of one host on the \
             network",
        ),
        (
            "[\"192.0.2.10/24\", \"fe80::1/64\"]",
            "found both IPv4 and IPv6, expected one family; use an instance for each, with one \
             sync_group",
        ),
    ];
    for (value, expected) in addresses {
        let text = INSTANCE.replace("[\"192.0.2.10/24\"]", value);
        let column = if expected.starts_with("found \"") { 14 } else { 13 };
        let fault = format!("11:{column}: addresses: {expected}");
        assert_eq!(faults(&text), [fault], "{value}");
    }
    let text = INSTANCE.replace("/24\"]", "/24\", \"192.0.2.10/32\"]");
    let fault = "11:13: the address 192.0.2.10 is given already on line 11";
    assert_eq!(faults(&text), [fault]);
    let text = format!("{INSTANCE}version = 2").replace("192.0.2.10/24", "fe80::1/64");
    let fault =
        "11:13: addresses: found IPv6 with version = 2, which has IPv4 only; use version = 3";
    assert_eq!(faults(&text), [fault]);
}

#[test]
fn faults_between_instances_and_all_at_once() {
    check(
        &[
            (
                "[[vrrp]]\nname = \"front\"\ninterface = \"eth0\"\nrouter_id = 51\n\
                 addresses = [\"192.0.2.11/24\", \"192.0.2.10/24\"]",
                &[
                    "13:8: VRRP instance \"front\" is given already on line 8",
                    "15:13: router id 51 on eth0 for IPv4 is given already on line 10",
                    "16:13: the address 192.0.2.10 is given already on line 11",
                ],
            ),
            // Another family, and another interface, have ids of their own.
            (
                "[[vrrp]]\nname = \"six\"\ninterface = \"eth0\"\nrouter_id = 51\n\
                 addresses = [\"fe80::a/64\"]\n\
                 [[vrrp]]\nname = \"back\"\ninterface = \"eth1\"\nrouter_id = 51\n\
                 addresses = [\"10.0.0.1/24\"]\ncolour = 1\npriority = \"high\"",
                &[
                    "22:1: unknown key \"colour\" in [[vrrp]]; known are name, interface, \
                     router_id, version, priority, interval, preempt, preempt_delay, addresses, \
                     checksum, unicast_peers, password, sync_group, garp, track, virtual_mac",
                    "23:12: priority: found \"high\", expected a whole number from 1 to 255",
                ],
            ),
            (
                "[[vrrp]]",
                &[
                    "12:1: key \"addresses\" is missing in [[vrrp]]",
                    "12:1: key \"interface\" is missing in [[vrrp]]",
                    "12:1: key \"name\" is missing in [[vrrp]]",
                    "12:1: key \"router_id\" is missing in [[vrrp]]",
                ],
            ),
        ],
        INSTANCE,
    );
}

#[test]
fn a_password_is_not_shown() {
    let text = format!("{INSTANCE}version = 2\npassword = \"geheim\"");
    assert!(!format!("{:?}", read(&text)).contains("geheim"));
    let text = format!("{INSTANCE}version = 2\npassword = \"geheimnisvoll\"");
    assert!(!faults(&text).concat().contains("geheim"));
}
