//! A service without backends tells its clients at once, with real kernels at both ends.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use weir_lab::{Lab, Weir, backend::UDP_PORT};

const PORT: u16 = 80;
/// Without an answer, a client would wait for as long as this.
const PATIENCE: Duration = Duration::from_secs(10);
/// A SYN that gets no answer is sent again after a second: this is not the second one's.
const AT_ONCE: Duration = Duration::from_millis(900);

fn start(lab: &Lab) -> Weir {
    let services = [
        lab.service("web", PORT),
        lab.service6("web6", PORT),
        lab.service("echo", UDP_PORT).udp().health("type = \"none\""),
        lab.service6("echo6", UDP_PORT).udp().health("type = \"none\""),
    ];
    let weir = lab.balancer().start_weir(&lab.balancer().config(&services)).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

/// Takes every backend of every service out, or lets it serve again.
fn turn(weir: &Weir, lab: &Lab, word: &str) {
    for service in ["web", "web6", "echo", "echo6"] {
        for backend in lab.backends() {
            weir.cli(&["backend", word, service, backend.name()]).unwrap();
        }
    }
}

/// How a datagram's sender is told.
fn asked(server: SocketAddr) -> ErrorKind {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(b"anybody there?").unwrap();
    socket.recv(&mut [0; 64]).unwrap_err().kind()
}

#[test]
fn clients_of_an_empty_service_are_refused_at_once_and_served_again() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().build().unwrap();
    let weir = start(&lab);
    turn(&weir, &lab, "maintenance");
    let client = lab.client().namespace();
    for vip in [lab.vip(PORT), lab.vip6(PORT)] {
        let began = Instant::now();
        let refused = client.enter(|| TcpStream::connect_timeout(&vip, PATIENCE)).unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
        assert!(began.elapsed() < AT_ONCE, "{vip}: {:?}", began.elapsed());
    }
    for vip in [lab.vip(UDP_PORT), lab.vip6(UDP_PORT)] {
        let told = client.enter(|| asked(vip)).unwrap();
        assert_eq!(told, ErrorKind::ConnectionRefused, "{vip}");
    }
    let said = lab.client().get(&format!("http://{}/", lab.vip(PORT))).unwrap_err();
    assert!(format!("{said:#}").contains("exit status: 7"), "{said:#}");
    let rejected = weir.status().unwrap().packets.answer;
    assert!(rejected.iter().any(|(reason, n)| reason == "rejected" && *n >= 5), "{rejected:?}");
    let source = SocketAddr::new(lab.client().address().into(), 4000);
    let said = weir.explain("tcp", source, lab.vip(PORT)).unwrap();
    assert_eq!((said.reason.as_str(), said.verdict.as_str()), ("rejected", "tx"));

    turn(&weir, &lab, "enable");
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0);
    assert_eq!(lab.client().udp_requests(lab.vip6(UDP_PORT), 20, 1).unwrap().failed, 0);
}
