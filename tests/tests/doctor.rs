//! `weir doctor`: faults are made in a lab, found by name, and gone when the remedy was followed.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use serde_json::Value;
use weir_lab::{Lab, Weir};

const PORT: u16 = 80;
const NOTHING: i32 = 0;
const FAILED: i32 = 1;
const FOUND: i32 = 3;

/// A lab with both VIPs, and the daemon with all backends up.
fn lab() -> (Lab, Weir) {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().build().unwrap();
    let weir = lab.balancer().start_weir(&config(&lab, "l2")).unwrap();
    weir.wait_until_up().unwrap();
    (lab, weir)
}

fn config(lab: &Lab, forward: &str) -> String {
    let web = lab.service("web", PORT).set("forward", &format!("{forward:?}"));
    lab.balancer().config(&[web, lab.service6("six", PORT)])
}

/// The kind and the subject of each finding.
fn findings(weir: &Weir, arguments: &[&str]) -> Vec<(String, String)> {
    let (code, text) = weir.doctor(&[arguments, &["--json"]].concat()).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    assert_eq!(report["skipped"], Value::Array(Vec::new()), "{text}");
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let all = report["findings"].as_array().unwrap();
    let all: Vec<_> = all.iter().map(|f| (word(f, "finding"), word(f, "subject"))).collect();
    assert_eq!(code, if all.is_empty() { NOTHING } else { FOUND }, "{text}");
    all
}

fn found(kind: &str, subject: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), subject.to_owned())]
}

#[test]
fn a_backend_that_answers_arp_for_the_vip_is_named_until_it_is_set_up() {
    let (lab, weir) = lab();
    assert_eq!(weir.doctor(&[]).unwrap(), (NOTHING, "nothing found\n".to_owned()));

    let backend = lab.backend("b1");
    backend.namespace().sysctl(&[("ipv4/conf/all/arp_ignore", "0")]).unwrap();
    assert_eq!(findings(&weir, &[]), found("backend_answers", "web/b1"));
    assert_eq!(findings(&weir, &["web"]), found("backend_answers", "web/b1"));
    assert_eq!(findings(&weir, &["six"]), [], "its VIP is another one");
    let (code, text) = weir.doctor(&[]).unwrap();
    let vip = lab.vip(PORT);
    let what = format!("! web/b1 answers ARP for the VIP {} on eth0 (02:77:00:00:00:15)", vip.ip());
    assert!(code == FOUND && text.starts_with(&what), "{text}");
    let remedy =
        format!("\n  remedy: run `weir backend-setup --service {vip}/tcp` on that machine");
    assert!(text.contains(&remedy) && text.ends_with("\n1 finding\n"), "{text}");

    backend.set_up(&["--service", &format!("{vip}/tcp")]).unwrap();
    assert_eq!(findings(&weir, &[]), []);

    let (code, text) = weir.doctor(&["nobody"]).unwrap();
    assert_eq!(code, FAILED);
    assert!(text.contains("there is no service nobody"), "{text}");
}

#[test]
fn over_ipv6_a_vip_on_the_wire_is_found_and_so_is_a_stranger() {
    let (lab, weir) = lab();
    let put = |role: &str, address: String| {
        let words = ["ip", "address", "add", &address, "dev", "eth0"];
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        lab.namespace(role).run(&[&words, nodad].concat()).unwrap();
    };
    put("b2", format!("{}/128", lab.vip6(0).ip()));
    assert_eq!(findings(&weir, &[]), found("backend_answers", "six/b2"));
    // Two services share the backend, and one its VIP.
    put("client", format!("{}/32", lab.vip(0).ip()));
    let all = findings(&weir, &["web"]);
    assert_eq!(all, found("stranger_answers", &lab.vip(0).ip().to_string()));
}

#[test]
fn what_is_wrong_on_the_way_is_found() {
    let (lab, weir) = lab();
    weir.reload(&config(&lab, "ipip")).unwrap();
    let (code, text) = weir.doctor(&["web"]).unwrap();
    let narrow = "the way to web/b1, web/b2 by eth0 carries 1500 with the 20 bytes that ipip adds";
    assert!(code == FOUND && text.contains(narrow), "{text}");
    weir.reload(&config(&lab, "l2")).unwrap();

    // A machine without power: the kernel has still to forget it.
    lab.power_off("b2").unwrap();
    let balancer = lab.balancer().namespace();
    balancer.run(&["ip", "neighbour", "flush", "dev", "eth0"]).unwrap();
    assert_eq!(findings(&weir, &["web"]), found("no_next_hop", "web/b2"));
    lab.power_on("b2").unwrap();
    assert_eq!(findings(&weir, &["web"]), []);

    lab.unplug("balancer").unwrap();
    let (code, text) = weir.doctor(&["web"]).unwrap();
    let down = "! eth0 is down, and the way to web/b1, web/b2 leads there\n";
    assert!(code == FOUND && text.contains(down), "{text}");
}
