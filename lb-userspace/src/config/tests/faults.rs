//! What is refused, in which words, and where.

use super::*;

/// The faults of a text, less the file's name.
pub(super) fn faults(text: &str) -> Vec<String> {
    let faults = parse(text, "weir.toml").expect_err("a faulty file was accepted").to_string();
    faults.lines().map(|line| line.strip_prefix("weir.toml:").unwrap().to_owned()).collect()
}

/// Checks each text against its faults: a first line `7:1: …` stands for `weir.toml:7:1: …`.
pub(super) fn check(cases: &[(&str, &[&str])], prefix: &str) {
    for (text, expected) in cases {
        assert_eq!(faults(&format!("{prefix}{text}")), *expected, "\n{text}");
    }
}

#[test]
fn keys() {
    check(
        &[
            (
                "adress = 1",
                &[r#"7:1: unknown key "adress" in [[service]]; did you mean "address"?"#],
            ),
            (
                "[service.health]\ncolour = 1",
                &["8:1: unknown key \"colour\" in [service.health]; known are type, port, path, \
                   method, host, expect, body, command, interval, timeout, rise, fall"],
            ),
            (
                "backend = [{ name = \"é\", address = \"10.0.0.1\", wheight = 3 }, 3]",
                &[
                    "7:21: name: found \"é\", expected a name of 1 to 63 letters, digits, '.', \
                     '_' or '-'",
                    "7:48: unknown key \"wheight\" in [[service.backend]]; did you mean \
                     \"weight\"?",
                    "7:63: backend: found 3, expected a table",
                ],
            ),
            (
                "[[service.backend]]",
                &[
                    "7:1: key \"address\" is missing in [[service.backend]]",
                    "7:1: key \"name\" is missing in [[service.backend]]",
                ],
            ),
            (
                "[service.backend]\nname = \"a\"\naddress = \"10.0.0.1\"",
                &["7:1: backend: found a table, expected a list of tables, each under its own \
                   [[service.backend]]"],
            ),
            ("health = 3", &["7:10: health: found 3, expected a table, [service.health]"]),
        ],
        SERVICE,
    );
}

#[test]
fn a_file_without_an_interface() {
    let fault = "1:1: no [[interface]] is given; Weir needs the name of at least one to receive \
                 packets on";
    check(&[("", &[fault]), ("interface = []", &[fault]), ("# \u{feff}", &[fault])], "");
}

#[test]
fn syntax() {
    check(
        &[
            ("ring = ", &["7:8: a value is missing after `=`"]),
            ("idle_timeout = 3s", &["7:16: found \"3s\"; text is written in quotes"]),
            ("x = \"éé\" y", &["7:10: unexpected key or value, expected newline, `#`"]),
            (
                "ring = 1009\nring = 1009",
                &["8:1: duplicate key \"ring\"; a key or table is given once"],
            ),
            (
                "[service]\nname = 1",
                &[
                    "7:2: duplicate key \"service\"; each one begins with a header in double \
                     brackets",
                    "8:8: name: found 1, expected a name of 1 to 63 letters, digits, '.', '_' or \
                     '-'",
                ],
            ),
            (
                "[service.health]\npath 3\nrise = 0\nfall\n",
                &[
                    "8:6: key with no value, expected `=`",
                    "9:8: rise: found 0, expected a whole number from 1 to 1000",
                    "10:5: key with no value, expected `=`",
                ],
            ),
            (
                "[limits]\nflows = 0\n[service.health]\nexpect = [\"2xx\"\nrise = 0\n[x]\n",
                &[
                    "8:9: flows: found 0, expected a whole number from 1 to 268435456",
                    "10:10: this list is never closed; `]` is missing",
                ],
            ),
            (
                "address = 192.0.2.9",
                &[
                    "7:1: duplicate key \"address\"; a key or table is given once",
                    "7:16: invalid float; text, such as an address, is written in quotes",
                ],
            ),
        ],
        SERVICE,
    );
}

#[test]
fn values_of_a_service() {
    let unsupported = "is not supported by this version; use";
    let ring = |found: u32, nearest: u32| {
        format!("7:8: ring: found {found}, expected a prime number; the nearest is {nearest}")
    };
    let share = |found: &str| {
        format!("7:19: panic_threshold: found {found}, expected a number from 0 to 1, such as 0.5")
    };
    let cases = [
        ("ring = 65536", ring(65_536, 65_537)),
        ("ring = 4194304", ring(4_194_304, 4_194_301)),
        ("ring = 1010", ring(1010, 1009)),
        ("ring = 10", "7:8: ring: found 10, expected a whole number from 1009 to 4194304".into()),
        ("ring = 1e4", "7:8: ring: found 1e4, expected a whole number from 1009 to 4194304".into()),
        ("protocol = true", "7:12: protocol: found true, expected \"tcp\" or \"udp\"".into()),
        (
            "algorithm = \"maglv\"",
            "7:13: algorithm: found \"maglv\", expected \"maglev\", \"ip_hash\", \
             \"round_robin\" or \"least_conn\"; did you mean \"maglev\"?"
                .into(),
        ),
        (
            "affinity = false",
            "7:12: affinity = false is for UDP services: a TCP connection whose packets go to two \
             backends breaks"
                .into(),
        ),
        (
            "affinity = false\nprotocol = \"udp\"\nalgorithm = \"round_robin\"",
            "7:12: affinity = false: \"round_robin\" records every flow; use \"maglev\" or \
             \"ip_hash\", which then record none"
                .into(),
        ),
        (
            "tunnel = { port = 1 }",
            "7:1: tunnel belongs to services with forward = \"ipip\" or \"gue\"; leave it out".into(),
        ),
        (
            "forward = \"ipip\"\ntunnel = { port = 1 }",
            "8:12: port belongs to tunnels of \"gue\", this one is \"ipip\"".into(),
        ),
        (
            "forward = \"gue\"\ntunnel = { port = 0 }",
            "8:19: port: found 0, expected a whole number from 1 to 65535".into(),
        ),
        (
            "forward = \"gue\"\ntunnel = { source = [\"10.255.0.1/16\"] }",
            "8:22: source: found \"10.255.0.1/16\", expected a network, whose bits behind the \
             prefix of 16 are zero, such as \"10.255.0.0/16\""
                .into(),
        ),
        (
            "forward = \"gue\"\ntunnel = { source = [\"10.1.0.0/16\", \"10.2.0.0/16\"] }",
            "8:21: source: found several networks of a family, expected one at most".into(),
        ),
        ("forward = \"nat\"", format!("7:11: forward = \"nat\" {unsupported} \"l2\", \"ipip\" or \"gue\"")),
        (
            "on_empty = \"refuse\"",
            "7:12: on_empty: found \"refuse\", expected \"reject\", \"drop\" or \"pass\"".into(),
        ),
        (
            "idle_timeout = 3",
            "7:16: idle_timeout: found 3, expected a duration in quotes, such as \"250ms\", \
             \"3s\", \"1m\" or \"1h\""
                .into(),
        ),
        (
            "idle_timeout = \"1h30m\"",
            "7:16: idle_timeout: found \"1h30m\", expected a duration such as \"250ms\", \"3s\", \
             \"1m\" or \"1h\""
                .into(),
        ),
        (
            "idle_timeout = \"1ms\"",
            "7:16: idle_timeout: found \"1ms\", expected a duration from 1s to 168h".into(),
        ),
        (
            "slow_start = \"10ms\"",
            "7:14: slow_start: found \"10ms\", expected a duration from 1s to 1h, or \"0s\" for off"
                .into(),
        ),
        ("panic_threshold = 1.5", share("1.5")),
        ("panic_threshold = -0.1", share("-0.1")),
        ("panic_threshold = nan", share("nan")),
        ("panic_threshold = 50", share("50")),
        ("panic_threshold = \"0.5\"", share("\"0.5\"")),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(&format!("{SERVICE}{text}")), [expected]);
    }
}

#[test]
fn addresses() {
    let special = |address: &str, kind: &str| {
        format!("found {address}, {kind} address; expected the address of one host on the network")
    };
    let no_address = |value: &str| {
        format!(
            "found {value}, expected an IP address in quotes, such as \"192.0.2.10\", without port \
             or prefix length"
        )
    };
    let cases = [
        ("\"0.0.0.0\"", special("\"0.0.0.0\"", "the unspecified")),
        ("\"224.0.0.1\"", special("\"224.0.0.1\"", "a multicast")),
        ("\"127.0.0.1\"", special("\"127.0.0.1\"", "a loopback")),
        ("\"255.255.255.255\"", special("\"255.255.255.255\"", "the broadcast")),
        ("\"10.0.0.1/24\"", no_address("\"10.0.0.1/24\"")),
        ("\"10.0.0.1:80\"", no_address("\"10.0.0.1:80\"")),
        ("7", no_address("7")),
    ];
    for (address, message) in cases {
        let lines = format!("[[service.backend]]\nname = \"a\"\naddress = {address}");
        let expected = [format!("9:11: address: {message}")];
        assert_eq!(faults(&format!("{SERVICE}{lines}")), expected);
        let lines = format!("[[service]]\nname = \"a\"\nport = 1\naddress = {address}");
        let expected = [format!("10:11: address: {message}")];
        assert_eq!(faults(&format!("{SERVICE}{lines}")), expected);
    }
    check(
        &[
            (
                "[[service.backend]]\nname = \"a\"\naddress = \"2001:db8::1\"",
                &["9:11: address: found 2001:db8::1, expected an IPv4 address like the service's \
                 192.0.2.1"],
            ),
            (
                "[[service.backend]]\nname = \"a\"\naddress = \"192.0.2.1\"",
                &["9:11: address: found the service's own 192.0.2.1, expected an address that \
                     the \
                 backend alone has"],
            ),
            (
                "[[service]]\nname = \"six\"\naddress = \"2001:db8::1\"\nport = 80\n\
                 backend = [{ name = \"a\", address = \"192.0.2.2\" }]",
                &["11:36: address: found 192.0.2.2, expected an IPv6 address like the service's \
                   2001:db8::1"],
            ),
            (
                "[[service]]\nname = \"six\"\naddress = \"2001:db8::1\"\nport = 80\n\
                 backend = [{ name = \"a\", address = \"fe80::2\" }]",
                &["11:36: address: found \"fe80::2\", a link-local address, which says nothing \
                   without an interface; expected a global or unique local one"],
            ),
            (
                "[[service]]\nname = \"six\"\naddress = \"::ffff:192.0.2.1\"\nport = 80",
                &[
                    "9:11: address: found \"::ffff:192.0.2.1\", an IPv4 address in the form of IPv6; \
                   expected it in its own form",
                ],
            ),
        ],
        SERVICE,
    );
}

#[test]
fn things_given_twice() {
    check(
        &[
            (
                "[[service]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80",
                &[
                    "8:8: service \"web\" is given already on line 4",
                    "9:11: a service at 192.0.2.1 port 80 tcp is given already on line 5",
                ],
            ),
            (
                "[[interface]]\nname = \"eth0\"",
                &["8:8: interface \"eth0\" is given already on line 2"],
            ),
            (
                "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
                 [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"",
                &[
                    "11:8: backend \"a\" of this service is given already on line 8",
                    "12:11: a backend of this service at 10.0.0.1 is given already on line 9",
                ],
            ),
        ],
        SERVICE,
    );
    // The same place with another protocol, or for all other ports, is another service.
    for other in ["port = 80\nprotocol = \"udp\"", "port = 0\nhealth.type = \"none\""] {
        service(&format!("[[service]]\nname = \"two\"\naddress = \"192.0.2.1\"\n{other}"));
    }
}

#[test]
fn health_checks() {
    check(
        &[
            (
                "path = \"/\"\ncommand = []",
                &[
                    "8:1: path belongs to checks of type \"http\" or \"https\", this one has type \
                 \"tcp\"",
                    "9:1: command belongs to checks of type \"script\", this one has type \"tcp\"",
                ],
            ),
            ("type = \"script\"", &["7:1: key \"command\" is missing in [service.health]"]),
            (
                "type = \"script\"\ncommand = [\"check\"]",
                &["9:11: command: the program is named by an absolute path"],
            ),
            (
                "type = \"http\"\nexpect = [\"20x\", 700]\nmethod = \"G T\"\npath = \"x\"\n\
                 host = \"a:1\"\nbody = \"\"",
                &[
                    "9:11: expect: found \"20x\", expected a status such as \"2xx\" or \"204\", \
                     from 100 to 599",
                    "9:18: expect: found 700, expected a status such as \"2xx\" or \"204\", from \
                     100 to 599",
                    "10:10: method: found \"G T\", expected an HTTP method such as \"GET\" or \
                     \"HEAD\"",
                    "11:8: path: found \"x\", expected a path from \"/\" on, such as \
                     \"/api/health\", other characters as %XX",
                    "12:8: host: found \"a:1\", expected a DNS name or an IP address, without \
                     scheme and port",
                    "13:8: body: found \"\", expected text, not empty",
                ],
            ),
            (
                "type = \"http\"\nexpect = []",
                &["9:10: expect: found an empty list, expected a list of statuses such as \
                 [\"2xx\", 301]"],
            ),
            (
                "timeout = \"5s\"",
                &["8:11: timeout: found \"5s\", expected at most the interval, which is \"3s\""],
            ),
            (
                "interval = \"9ms\"\nfall = -1\nport = 0",
                &[
                    "8:12: interval: found \"9ms\", expected a duration from 10ms to 1h",
                    "9:8: fall: found -1, expected a whole number from 1 to 1000",
                    "10:8: port: found 0, expected a whole number from 1 to 65535",
                ],
            ),
            (
                "[[service]]\nname = \"all\"\naddress = \"192.0.2.2\"\nport = 0",
                &["8:1: the service has every port (port = 0), so its health check needs a port \
                     of \
                 its own; give [service.health] a port, or type = \"none\""],
            ),
        ],
        &format!("{SERVICE}[service.health]\n"),
    );
}

#[test]
fn what_this_version_lacks() {
    check(
        &[(
            "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\nport = 80",
            &[
                "10:1: a backend's port is not supported by this version; use the service's port, on \
               which its backends are to listen",
            ],
        )],
        SERVICE,
    );
}

#[test]
fn sections_and_limits() {
    check(
        &[
            (
                "[limits]\nservices = 0\nbackends = 65534\nring_slots = 268435457\nflows = 0",
                &[
                    "8:12: services: found 0, expected a whole number from 1 to 65536",
                    "9:12: backends: found 65534, expected a whole number from 1 to 65533",
                    "10:14: ring_slots: found 268435457, expected a whole number from 1024 to \
                 268435456",
                    "11:9: flows: found 0, expected a whole number from 1 to 268435456",
                ],
            ),
            (
                "ring = 65537\n[limits]\nring_slots = 65551",
                &["7:8: with this ring of 65537, the rings need 65552 slots, each ring rounded \
                     up \
                 to a multiple of 16; limits.ring_slots = 65551 allows fewer"],
            ),
            (
                "backend = [{ name = \"a\", address = \"10.0.0.1\" }, \
                 { name = \"b\", address = \"10.0.0.2\" }]\n[limits]\nservices = 1\nbackends = 1\n\
                 [[service]]\nname = \"b\"\naddress = \"192.0.2.2\"\nport = 1",
                &[
                    "3:1: 2 backends are more than limits.backends = 1 allows",
                    "11:1: 2 services are more than limits.services = 1 allows",
                ],
            ),
            (
                "[[interface]]\nname = \"a/b\"\nmode = \"nativ\"\n[[interface]]\n\
                 name = \"sixteen-letters0\"",
                &[
                    "8:8: name: found \"a/b\", expected an interface name of 1 to 15 characters \
                     without '/', ':' and spaces",
                    "9:8: mode: found \"nativ\", expected \"auto\", \"native\" or \"generic\"; \
                     did you mean \"native\"?",
                    "11:8: name: found \"sixteen-letters0\", expected an interface name of 1 to \
                     15 characters without '/', ':' and spaces",
                ],
            ),
            (
                "[node]\nname = \"a/b\"\nstate_dir = \"x\"\n[control]\nsocket = \"x\"\n\
                 [admin]\nlisten = \"127.0.0.1\"",
                &[
                    "8:8: name: found \"a/b\", expected a name of 1 to 63 letters, digits, '.', \
                     '_' or '-'",
                    "9:13: state_dir: found \"x\", expected an absolute path",
                    "11:10: socket: found \"x\", expected an absolute path",
                    "13:10: listen: found \"127.0.0.1\", expected an IP address and port, such as \
                     \"127.0.0.1:9750\"",
                ],
            ),
        ],
        SERVICE,
    );
    // Rings that fill the table to the last line are no fault.
    service("ring = 65537\n[limits]\nring_slots = 65552");
}

#[test]
fn every_fault_of_a_bad_file_comes_out_in_order() {
    let text = r#"nod = 1
[[interface]]
mode = "fast"
[[service]]
name = "my service"
address = "192.0.2.300"
port = 65536
weight = 1
[service.health]
type = "htp"
interval = "3 seconds"
[[service.backend]]
name = "a"
address = "10.0.0.1"
weight = -1
[limits]
flows = "many"
"#;
    assert_eq!(
        faults(text),
        [
            "1:1: unknown key \"nod\" at the top level; did you mean \"node\"?",
            "2:1: key \"name\" is missing in [[interface]]",
            "3:8: mode: found \"fast\", expected \"auto\", \"native\" or \"generic\"",
            "5:8: name: found \"my service\", expected a name of 1 to 63 letters, digits, '.', \
             '_' or '-'",
            "6:11: address: found \"192.0.2.300\", expected an IP address in quotes, such as \
             \"192.0.2.10\", without port or prefix length",
            "7:8: port: found 65536, expected a whole number from 0 to 65535",
            "8:1: unknown key \"weight\" in [[service]]; known are name, address, port, protocol, \
             algorithm, affinity, fragments, forward, tunnel, ring, idle_timeout, on_empty, ping, slow_start, \
             panic_threshold, health, backend",
            "10:8: type: found \"htp\", expected \"tcp\", \"http\", \"https\", \"script\" or \
             \"none\"; did you mean \"http\"?",
            "11:12: interval: found \"3 seconds\", expected a duration such as \"250ms\", \"3s\", \
             \"1m\" or \"1h\"",
            "15:10: weight: found -1, expected a whole number from 0 to 256",
            "17:9: flows: found \"many\", expected a whole number from 1 to 268435456",
        ]
    );
}
