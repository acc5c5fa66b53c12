//! ICMP for VIPs with real kernels: pings are answered, and answers that are too large for the way
//! to a client become smaller.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{fs, net::IpAddr};

use weir_lab::{Lab, Namespace, Weir};

const PORT: u16 = 80;
/// What the way to the client carries: less than the networks at both ends of it.
const NARROW: &str = "1300";

/// Services of both families, whose VIP is to be pinged, or not.
fn start(lab: &Lab, ping: &str) -> Weir {
    let services = [lab.service("web", PORT), lab.service6("web6", PORT)];
    let config = lab.balancer().config(&services.map(|service| service.set("ping", ping)));
    let weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

fn vips(lab: &Lab) -> [IpAddr; 2] {
    [lab.vip(PORT).ip(), lab.vip6(PORT).ip()]
}

fn pings(client: &Namespace, vip: IpAddr) -> anyhow::Result<String> {
    client.run(&["ping", "-c", "3", "-i", "0.1", "-W", "1", &vip.to_string()])
}

fn answered(weir: &Weir) -> u64 {
    let answers = weir.status().unwrap().packets.answer;
    answers.iter().find(|(reason, _)| reason == "ping").map_or(0, |(_, packets)| *packets)
}

#[test]
fn a_vip_is_pinged_whether_the_balancer_has_the_address_or_not() {
    weir_lab::require_root().unwrap();
    for has_address in [true, false] {
        let builder = Lab::builder();
        let lab = if has_address { builder } else { builder.unclaimed_vip() }.build().unwrap();
        let weir = start(&lab, "true");
        let client = lab.client().namespace();
        if !has_address {
            let (v4, v6) = (lab.balancer().address(), lab.balancer().address6());
            for (vip, via) in vips(&lab).into_iter().zip([v4.to_string(), v6.to_string()]) {
                client.run(&["ip", "route", "add", &vip.to_string(), "via", &via]).unwrap();
            }
        }
        for vip in vips(&lab) {
            let told = pings(client, vip).unwrap();
            assert!(told.contains("ttl=64"), "{told}");
        }
        assert_eq!(answered(&weir), 6, "by the program");
        if !has_address {
            // A reload without `ping`: nobody is left who would answer.
            let config = lab.balancer().config(&[lab.service("web", PORT)]);
            weir.reload(&config).unwrap();
            assert!(pings(client, vips(&lab)[0]).is_err());
        }
    }
}

#[test]
fn pings_are_answered_on_while_the_daemon_is_restarted() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().build().unwrap();
    let mut weir = start(&lab, "true");
    for _ in 0..2 {
        weir.kill();
        pings(lab.client().namespace(), vips(&lab)[0]).unwrap();
        weir.start().unwrap();
        pings(lab.client().namespace(), vips(&lab)[1]).unwrap();
    }
    assert_eq!(answered(&weir), 12, "in the same tables");
}

#[test]
fn answers_shrink_to_what_the_way_to_the_client_carries() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(2).two_networks().build().unwrap();
    let large: String = "0123456789abcdef".repeat(20_000);
    for backend in lab.backends() {
        fs::write(backend.namespace().directory().join("large"), &large).unwrap();
    }
    let _weir = start(&lab, "false");
    let clients = [IpAddr::from(lab.client().address()), lab.client().address6().into()];
    for client in clients {
        let route = ["ip", "route", "add", &client.to_string(), "dev", "front"];
        let narrow = ["mtu", "lock", NARROW];
        lab.namespace("bridge").run(&[&route[..], &narrow].concat()).unwrap();
    }
    let learned = |backend: &str, client: IpAddr| {
        let way = ["ip", "route", "get", &client.to_string()];
        lab.namespace(backend).run(&way).unwrap().contains(&format!("mtu {NARROW}"))
    };
    for (vip, client) in [lab.vip(PORT), lab.vip6(PORT)].into_iter().zip(clients) {
        // Each backend has to be told, by errors about its own packets.
        for _ in 0..100 {
            let answer = lab.client().get(&format!("http://{vip}/large")).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, large.len()));
            if ["b1", "b2"].into_iter().all(|backend| learned(backend, client)) {
                break;
            }
        }
        for backend in ["b1", "b2"] {
            assert!(learned(backend, client), "{backend} knows the way to {client}");
        }
    }
}
