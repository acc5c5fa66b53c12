//! What a good file means.

use std::{io::Write, net::IpAddr, time::Duration};

use super::*;

#[test]
fn defaults() {
    let config = read(SERVICE);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(
        config.node,
        Node { name: host, state_dir: "/var/lib/weir".into(), bpf_dir: "/sys/fs/bpf/weir".into() }
    );
    assert_eq!(
        config.control,
        Control { socket: "/run/weir/weir.sock".into(), group: "weir".into() }
    );
    assert_eq!(config.admin.listen, "127.0.0.1:9750".parse().unwrap());
    assert_eq!(
        config.limits,
        Limits { services: 1024, backends: 16_384, ring_slots: 4_194_304, flows: 262_144 }
    );
    assert_eq!(config.interfaces, [Interface { name: "eth0".into(), mode: AttachMode::Auto }]);
    assert_eq!(config.sync, None);
    let web = config.service(&Name::new("web").unwrap()).unwrap();
    let health = HealthCheck {
        kind: CheckKind::Tcp,
        port: 80,
        interval: Duration::from_secs(3),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };
    assert_eq!(
        *web,
        Service {
            name: Name::new("web").unwrap(),
            address: "192.0.2.1".parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            affinity: true,
            fragments: Fragments::Follow,
            forward: Forward::L2,
            tunnel: Tunnel::default(),
            ring: 65_537,
            idle_timeout: Duration::from_secs(3600),
            on_empty: OnEmpty::Reject,
            ping: false,
            slow_start: Duration::ZERO,
            panic_threshold: Share::HALF,
            health,
            backends: Vec::new(),
        }
    );
    assert_eq!(config.service(&Name::new("mail").unwrap()), None);
}

#[test]
fn tunnels() {
    let ipip = "forward = \"ipip\"\n[[service.backend]]\nname = \"a\"\naddress = \"2001:db8::1\"";
    let other_family = service(ipip);
    assert_eq!((other_family.forward, other_family.tunnel.port), (Forward::Ipip, 6080));
    let gue = service("forward = \"gue\"\ntunnel = { port = 5555, source = [\"10.255.0.0/16\"] }");
    let network = Prefix { address: [10, 255, 0, 0].into(), length: 16 };
    assert_eq!(gue.tunnel, Tunnel { port: 5555, source: vec![network] });
    assert_eq!(gue.tunnel.source_to([10, 0, 0, 1].into()), Some(network));
    assert_eq!(gue.tunnel.source_to("2001:db8::1".parse().unwrap()), None);
}

#[test]
fn defaults_that_depend() {
    let udp = service("protocol = \"udp\"");
    assert_eq!(udp.idle_timeout, Duration::from_secs(120));
    assert_eq!(udp.health.kind, CheckKind::None);

    let quick = service("[service.health]\ninterval = \"250ms\"").health;
    assert_eq!(quick.timeout, Duration::from_millis(250));

    let http = service("[service.health]\ntype = \"https\"\nport = 8443").health;
    let check = HttpCheck {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        expect: vec![StatusPattern::Class(2), StatusPattern::Class(3)],
        body: None,
    };
    assert_eq!((http.kind, http.port), (CheckKind::Https(check), 8443));

    let backend = "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"";
    let backend = &service(backend).backends[0];
    assert_eq!((backend.weight, backend.backup), (1, false));
}

#[test]
fn shares_and_durations_that_may_be_off() {
    let of = |text: &str| service(&format!("panic_threshold = {text}")).panic_threshold;
    assert_eq!(of("0.5"), Share::HALF);
    assert!(!of("0").exceeds(0, 7) && !of("0.0").exceeds(0, 7), "0 turns it off");
    assert!(of("1").exceeds(6, 7) && !of("1").exceeds(7, 7));
    assert!(of("0.34").exceeds(1, 3) && !of("0.333").exceeds(1, 3));
    assert_eq!(service("slow_start = \"30s\"").slow_start, Duration::from_secs(30));
    assert_eq!(service("slow_start = \"0s\"").slow_start, Duration::ZERO);
}

#[test]
fn peers() {
    let sync = "[sync]\nlisten = \"10.0.0.1:9751\"\npeers = [\"10.0.0.2:9751\"]\n\
                key_file = \"/etc/weir/sync.key\"";
    assert_eq!(
        read(&format!("{SERVICE}{sync}")).sync,
        Some(Sync {
            listen: "10.0.0.1:9751".parse().unwrap(),
            peers: vec!["10.0.0.2:9751".parse().unwrap()],
            key_file: "/etc/weir/sync.key".into(),
            probe: Duration::from_millis(10),
            witness: Vec::new(),
            fence: Vec::new(),
        })
    );
    let judged = format!(
        "{SERVICE}{sync}\nwitness = [\"10.0.0.254\", \"2001:db8::1\"]\nfence = [\"/bin/off\", \"7\"]"
    );
    let judged = read(&judged).sync.unwrap();
    assert_eq!(
        judged.witness,
        ["10.0.0.254", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    assert_eq!(judged.fence, ["/bin/off", "7"]);
    assert!(read(&format!("{SERVICE}{sync}\nwitness = []\nfence = []")).sync.is_some());
    let probe = |value: &str| {
        let config = read(&format!("{SERVICE}{sync}\nprobe = \"{value}\""));
        config.sync.map(|sync| sync.probe)
    };
    assert_eq!(probe("0s"), Some(Duration::ZERO));
    assert_eq!(probe("2ms"), Some(Duration::from_millis(2)));
}

#[test]
fn the_example_is_good() {
    let config = read(EXAMPLE);
    let services: Vec<_> = config
        .services
        .iter()
        .map(|s| format!("{} {}:{}/{} {}", s.name, s.address, s.port, s.protocol, s.backends.len()))
        .collect();
    assert_eq!(
        services,
        [
            "grafana 192.0.2.10:3000/tcp 2",
            "elasticsearch 192.0.2.11:9200/tcp 3",
            "dns 192.0.2.53:53/udp 2",
            "dns-tcp 192.0.2.53:53/tcp 2",
        ]
    );
    assert_eq!(config.services[1].backends[2].weight, 2);
}

/// What the example shows behind a `#` is the default, and uncommented it still is.
#[test]
fn the_example_shows_the_defaults() {
    let shown = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = ") && !rest.contains("name = ") => rest,
        _ => line,
    });
    assert_eq!(read(&shown.collect::<Vec<_>>().join("\n")), read(EXAMPLE));
}

#[test]
fn durations() {
    let good = [
        ("250ms", 250_000_000),
        ("3s", 3_000_000_000),
        ("1.5s", 1_500_000_000),
        ("0.25ms", 250_000),
        ("1m", 60_000_000_000),
        ("1h", 3_600_000_000_000),
        ("0s", 0),
    ];
    for (text, nanos) in good {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
    let bad = ["", "3", "s", "3 s", "-1s", "+1s", "1.s", ".5s", "1h30m", "3S", "1d", "1e3s", "٣s"];
    for text in bad.into_iter().chain(["99999999999h", "1.0000000001s"]) {
        assert_eq!(parse_duration(text), Err(InvalidDuration), "{text}");
    }
    assert_eq!(parse_duration("9999999999h"), Ok(Duration::from_secs(9_999_999_999 * 3600)));
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weir.toml");
    assert!(load(&path).unwrap_err().to_string().contains("weir.toml: No such file"));

    let mut file = File::create(&path).unwrap();
    file.write_all(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(load(&path).unwrap(), read(EXAMPLE));

    file.write_all("# gr\u{fc}n \"".as_bytes()).unwrap();
    file.write_all(b"\xff").unwrap();
    let message = load(&path).unwrap_err().to_string();
    let line = EXAMPLE.lines().count() + 1;
    let end =
        format!("weir.toml:{line}:9: found bytes that are not UTF-8; the file is text in UTF-8");
    assert!(message.ends_with(&end), "{message}");

    file.set_len(FILE_SIZE_MAX + 1).unwrap();
    assert!(matches!(load(&path), Err(LoadError::TooLarge { .. })));
}
