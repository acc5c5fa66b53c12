//! The daemon under people and machines that do it no favours: starts that fail, kills, storms of
//! reloads and requests, interfaces that go and come back.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use weir::core::{BackendState, EventKind};
use weir_lab::{Lab, Weir, xdp::Program};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(20);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).build().unwrap()
}

fn start(lab: &Lab, config: &str) -> Weir {
    let weir = lab.balancer().start_weir(config).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

fn web(lab: &Lab) -> String {
    lab.balancer().config(&[lab.service("web", PORT)])
}

/// What a start that must fail says.
fn refusal(lab: &Lab, config: &str) -> String {
    // Only this start's words.
    let _ = fs::remove_file(lab.balancer().namespace().directory().join("weir.log"));
    format!("{:#}", lab.balancer().start_weir(config).unwrap_err())
}

/// The value of a path in the configuration.
fn path_of(key: &str, config: &str) -> PathBuf {
    let line = config.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    line.split('"').nth(1).unwrap().into()
}

/// A configuration with one more interface.
fn with_interface(config: &str, name: &str) -> String {
    config.replacen("[[service]]", &format!("[[interface]]\nname = \"{name}\"\n\n[[service]]"), 1)
}

/// Adds an interface of no use to the balancer.
fn add_spare(lab: &Lab) {
    let balancer = lab.balancer().namespace();
    balancer.run(&["ip", "link", "add", "spare", "type", "veth", "peer", "name", "end"]).unwrap();
    for name in ["spare", "end"] {
        balancer.run(&["ip", "link", "set", name, "up"]).unwrap();
    }
}

fn has_program(lab: &Lab, interface: &str) -> bool {
    let shown = lab.balancer().namespace().run(&["ip", "link", "show", interface]).unwrap();
    shown.contains("prog/xdp")
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let lab = lab();
    let good = web(&lab);
    add_spare(&lab);
    let occupied = Program::pass().unwrap();
    let _occupied = occupied.attach(lab.balancer().namespace(), "spare").unwrap();
    let pins = path_of("bpf_dir", &good);
    let elsewhere = lab.directory().join("no-bpffs").display().to_string();
    let no_directory = lab.directory().join("file");
    fs::write(&no_directory, "").unwrap();
    let state = path_of("state_dir", &good).display().to_string();
    for (config, complaint) in [
        (good.replace("\"eth0\"", "\"eth7\""), "there is no interface \"eth7\""),
        (good.replace("\"eth0\"", "\"lo\""), "lo is no Ethernet interface"),
        (good.replace(&pins.display().to_string(), &elsewhere), "mount -t bpf bpf"),
        (good.replace(&state, &no_directory.display().to_string()), "set another node.state_dir"),
        // Not even root can write there.
        (good.replace(&state, "/proc/state"), "cannot keep state in /proc/state"),
        (good.replace("127.0.0.1:9750", "192.0.2.77:9750"), "set another admin.listen"),
        (with_interface(&good, "spare"), "another XDP program is attached to spare"),
    ] {
        let said = refusal(&lab, &config);
        assert!(said.contains("exit status: 1") && said.contains(complaint), "{said}");
        assert_eq!(said.matches("weir: ").count(), 1, "one line: {said}");
        assert!(!pins.exists(), "{complaint}: pins are left");
        assert!(!Path::new(&elsewhere).exists(), "{complaint}: a directory is left");
        assert!(!path_of("socket", &config).exists(), "{complaint}: the socket is left");
        assert!(!has_program(&lab, "eth0"), "{complaint}: the program is left");
    }
    start(&lab, &good);
}

#[test]
fn a_start_that_fails_leaves_the_run_before_as_it_was() {
    let lab = lab();
    let good = web(&lab);
    let mut weir = start(&lab, &good);
    let other = good.replace("127.0.0.1:9750", "127.0.0.1:9751");
    let state = path_of("state_dir", &good).display().to_string();
    let own_state = other.replace(&state, &format!("{state}-2"));
    let second = own_state.replace("weir.sock", "weir-2.sock");
    for (config, key) in [(&other, "node.state_dir"), (&second, "node.bpf_dir")] {
        fs::write(weir_config(&lab), config).unwrap();
        let said = weir.cli(&["run"]).unwrap_err().to_string();
        assert!(said.contains(&format!("give this one its own {key}")), "{said}");
    }
    fs::write(weir_config(&lab), &good).unwrap();
    assert!(weir.cli(&["detach"]).is_err(), "detached under a running daemon");

    add_spare(&lab);
    let occupied = Program::pass().unwrap();
    let _occupied = occupied.attach(lab.balancer().namespace(), "spare").unwrap();
    weir.kill();
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();
    let larger = with_interface(&good, "spare").replace("backends = 256", "backends = 512");
    refusal(&lab, &larger);
    traffic.wait_for_more(50, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");

    // Another mode has to take the old program away first; it is put back.
    refusal(&lab, &with_interface(&good, "spare").replace("\"native\"", "\"generic\""));
    let shown = lab.balancer().namespace().run(&["ip", "link", "show", "eth0"]).unwrap();
    assert!(shown.contains(" xdp ") && !shown.contains("xdpgeneric"), "{shown}");
    assert_eq!(lab.client().requests(lab.vip(PORT), 200, 2).unwrap().failed, 0);

    fs::write(weir_config(&lab), &good).unwrap();
    weir.start().unwrap();
    let adopted = EventKind::Started { adopted: true };
    assert!(weir.events().unwrap().iter().any(|event| event.kind == adopted));
}

fn weir_config(lab: &Lab) -> PathBuf {
    lab.balancer().namespace().directory().join("weir.toml")
}

#[test]
fn modes_change_across_restarts_and_a_ruined_state_is_put_aside() {
    let lab = lab();
    let good = web(&lab);
    let mut weir = start(&lab, &good);
    for mode in ["generic", "auto", "native", "auto"] {
        weir.stop().unwrap();
        fs::write(weir_config(&lab), good.replace("\"native\"", &format!("\"{mode}\""))).unwrap();
        weir.start().unwrap();
        weir.wait_until_up().unwrap();
        let tally = lab.client().requests(lab.vip(PORT), 200, 2).unwrap();
        assert_eq!(tally.failed, 0, "{mode}: {tally}");
    }
    for ruin in ["", "{\"tables\": {\"id\": 7, \"from\": \"the future\"}, \"core\": 3}", "\u{0}"] {
        weir.kill();
        fs::write(path_of("state_dir", &good).join("state.json"), ruin).unwrap();
        weir.start().unwrap();
        weir.wait_until_up().unwrap();
        assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0);
    }
}

#[test]
fn interfaces_may_change_their_address_or_vanish_and_return() {
    let lab = lab();
    add_spare(&lab);
    let mut weir = start(&lab, &with_interface(&web(&lab), "spare"));
    let balancer = lab.balancer().namespace();
    let works = || {
        lab.client().namespace().run(&["ip", "neigh", "flush", "all"]).unwrap();
        let answered = lab.client().requests(lab.vip(PORT), 20, 1).unwrap();
        answered.failed == 0 && answered.answers.len() == 3
    };
    let remake = || {
        balancer.run(&["ip", "link", "del", "spare"]).unwrap();
        add_spare(&lab);
    };
    remake();
    wait_for("the interface that returned has the program", || has_program(&lab, "spare"));
    // While one interface is gone, the others are still looked after.
    balancer.run(&["ip", "link", "del", "spare"]).unwrap();
    balancer.run(&["ip", "link", "set", "eth0", "address", "02:00:00:00:77:01"]).unwrap();
    wait_for("a new address is known", works);
    add_spare(&lab);
    wait_for("the interface that returned has the program", || has_program(&lab, "spare"));

    weir.kill();
    remake();
    balancer.run(&["ip", "link", "set", "eth0", "address", "02:00:00:00:77:02"]).unwrap();
    weir.start().unwrap();
    assert!(has_program(&lab, "spare"));
    wait_for("an address changed meanwhile is known", works);
}

#[test]
fn commands_survive_a_kill_at_any_moment() {
    let lab = lab();
    let services = [lab.service("web", PORT), lab.service("other", 81).health("type = \"none\"")];
    let mut weir = start(&lab, &lab.balancer().config(&services));
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    for round in 0..8_u16 {
        for step in 0..4 {
            let weight = (1 + round * 4 + step).to_string();
            weir.cli(&["backend", "set", "other", "b1", "--weight", &weight]).unwrap();
        }
        let verb = if round % 2 == 0 { "maintenance" } else { "enable" };
        weir.cli(&["backend", verb, "other", "b2"]).unwrap();
        let before = weir.explain("tcp", "192.0.2.200:4000".parse().unwrap(), lab.vip(81)).unwrap();
        weir.kill();
        weir.start().unwrap();
        let after = weir.explain("tcp", "192.0.2.200:4000".parse().unwrap(), lab.vip(81)).unwrap();
        assert_eq!((before.backend, before.slot), (after.backend, after.slot), "round {round}");
        assert_eq!(weir.backend("other", "b1").unwrap().weight, 4 + round * 4);
        let state = weir.backend("other", "b2").unwrap().state;
        assert_eq!(state == BackendState::Maintenance, round % 2 == 0, "{state:?}");
    }
    traffic.wait_for_more(20, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

#[test]
fn reloads_of_other_services_cost_this_one_nothing() {
    let lab = lab();
    let config = |port: u16, more: u16, ring: &str, algorithm: &str| {
        let mut services = vec![lab.service("web", PORT)];
        let quiet = "type = \"none\"";
        let changing = |name: &str, port| {
            let service = lab.service(name, port).health(quiet).set("ring", ring);
            service.set("algorithm", &format!("\"{algorithm}\""))
        };
        services.push(changing("a", port));
        services.push(changing("b", 2000 - port));
        services.extend((0..more).map(|n| changing(&format!("more-{n}"), 3000 + n)));
        lab.balancer().config(&services)
    };
    let weir = start(&lab, &config(900, 0, "1009", "maglev"));
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();
    for round in 0..12 {
        let port = if round % 2 == 0 { 1100 } else { 900 };
        let ring = ["1009", "4093", "2003"][round % 3];
        let algorithm = ["maglev", "ip_hash"][round % 2];
        let more = [40, 5, 0][round % 3];
        weir.reload(&config(port, more, ring, algorithm)).unwrap();
        let services = weir.status().unwrap().services;
        assert_eq!(services.len(), 3 + usize::from(more));
        assert_eq!(services.iter().find(|s| s.name.as_str() == "a").unwrap().port, port);
    }
    for _ in 0..200 {
        weir.signal(Signal::SIGHUP).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    weir.wait_until_up().unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

#[test]
fn whatever_comes_over_the_socket_the_daemon_answers_the_next() {
    let lab = lab();
    let config = web(&lab);
    let weir = start(&lab, &config);
    let socket = path_of("socket", &config);
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let huge = format!(
        "PUT /v1/services/web/backends/x HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n",
        9 << 20
    );
    let mut refused = 0;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01"[..], &[0; 16_384], b"GET / HTTP/9.9\r\n\r\n", huge.as_bytes()]
    {
        let mut stream = connect();
        // It may hang up before it has read everything.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        refused += usize::from(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    }
    assert_eq!(refused, 4);
    let followers: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: w\r\n\r\n").unwrap();
            stream
        })
        .collect();
    // Many at once, half of whom do not wait for the answer.
    thread::scope(|scope| {
        for worker in 0..8 {
            let connect = &connect;
            scope.spawn(move || {
                for n in 0..100 {
                    let mut stream = connect();
                    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: w\r\n\r\n");
                    if (worker + n) % 2 == 0 {
                        let mut start = [0; 12];
                        stream.read_exact(&mut start).unwrap();
                        assert_eq!(&start, b"HTTP/1.1 200");
                    }
                }
            });
        }
    });
    weir.cli(&["backend", "set", "web", "b1", "--weight", "2"]).unwrap();
    drop(followers);
    for wrong in [
        &["backend", "add", "web", "x", "--address", "fd00::1"][..],
        &["backend", "add", "web", "x", "--address", "127.0.0.1"],
        &["backend", "add", "web", "x", "--address", &lab.vip(PORT).ip().to_string()],
        &["backend", "add", "web", "x", "--address", &lab.backend("b1").address().to_string()],
        &["backend", "add", "web", "../x y\n", "--address", "192.0.2.99"],
        &["backend", "set", "web", "b1", "--weight", "257"],
        &["backend", "set", "web", "b9", "--weight", "1"],
        &["backend", "remove", "wab", "b1"],
    ] {
        assert!(weir.cli(wrong).is_err(), "{wrong:?} was accepted");
    }
    assert_eq!(weir.status().unwrap().services[0].backends.len(), 3);
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0);
}

#[test]
fn it_leaves_in_time_whatever_hangs() {
    let lab = lab();
    let config = web(&lab);
    let mut weir = start(&lab, &config);
    lab.backend("b1").stop().unwrap();
    let mut follower = UnixStream::connect(path_of("socket", &config)).unwrap();
    follower.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: w\r\n\r\n").unwrap();
    let idle = UnixStream::connect(path_of("socket", &config)).unwrap();
    let begun = Instant::now();
    weir.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut told = String::new();
    follower.read_to_string(&mut told).unwrap();
    assert!(told.contains("\"stopped\""), "{told}");
    drop(idle);
    lab.backend("b1").resume().unwrap();
}

#[test]
fn a_service_without_backends_does_as_it_is_told_and_recovers() {
    let lab = lab();
    let services = [
        // Not checked: what a busy machine makes of time-outs is not the question here.
        lab.service("web", PORT).health("type = \"none\"").set("on_empty", "\"drop\""),
        lab.service("pass", 81).health("type = \"none\"").set("on_empty", "\"pass\""),
    ];
    let weir = start(&lab, &lab.balancer().config(&services));
    let verdict = |port| {
        let source = "192.0.2.200:4000".parse().unwrap();
        let said = weir.explain("tcp", source, lab.vip(port)).unwrap();
        (said.reason, said.verdict)
    };
    let each = |words: &[&str], rest: &[&str]| {
        for backend in ["b1", "b2", "b3"] {
            weir.cli(&[words, &[backend], rest].concat()).unwrap();
        }
    };
    each(&["backend", "set", "web"], &["--weight", "0"]);
    each(&["backend", "maintenance", "pass"], &[]);
    // Weight 0 takes no new flow, and an old one stays where it is; maintenance ends them all.
    assert_eq!(verdict(PORT), ("moving: prior".to_owned(), "tx".to_owned()));
    assert!(lab.client().request_from(4001, lab.vip(PORT)).is_err(), "a new flow is dropped");
    each(&["backend", "maintenance", "web"], &[]);
    assert_eq!(verdict(PORT), ("no backend".to_owned(), "drop".to_owned()));
    assert_eq!(verdict(81).1, "pass");
    each(&["backend", "set", "web"], &["--weight", "1"]);
    each(&["backend", "enable", "web"], &[]);
    each(&["backend", "enable", "pass"], &[]);
    assert_eq!((verdict(PORT).1, verdict(81).1), ("tx".to_owned(), "tx".to_owned()));
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0);
}

#[test]
fn who_debugs_is_told_of_every_packet_by_the_program_itself() {
    let lab = lab();
    let log = ["--log", "info,packet=trace"];
    let weir = lab.balancer().start_weir_with(&web(&lab), &log).unwrap();
    weir.wait_until_up().unwrap();
    lab.client().get(&format!("http://{}/", lab.vip(PORT))).unwrap();
    let tells = |words: &[&str]| {
        let log = weir.log();
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    };
    wait_for("the packets that were forwarded", || {
        tells(&["packet", "eth0", "forwarded: settled"])
    });
    wait_for("a packet that was not", || tells(&["packet", "refused: "]));
}
