//! What reads bytes from outside, under any bytes at all: one function a reader, each of which
//! panics if a promise is broken. The fuzz targets (`fuzz/`) call them with what they make up, the
//! test `corpus` with what was worth keeping.

use std::{cell::RefCell, net::IpAddr, time::Duration};

use lb_common::{
    echo::{self, Message as Probe, NEVER, Outcome},
    fragment,
    layout::{BackendEntry, Life, Tunnel, TunnelKind},
    packet::Packet,
    slot::{Prior, Slot},
};
use weir::{
    sync::packet::{Message, version_in},
    vrrp::{
        auth::{Authentication, Password},
        packet::{Coverage, Datagram, Filter, Format, Version},
    },
};

use crate::{
    host,
    model::{PARAMETERS, Protocol, SPAN, memory::Memory, service_key},
    program::{ECHO, OWN_MAC},
};

/// Reads some bytes, and panics if a promise is broken.
pub type Reader = fn(&[u8]);

/// Every reader by the name of its target.
pub const TARGETS: [(&str, Reader); 4] =
    [("echo", echo), ("sync", sync), ("vrrp", vrrp), ("xdp", xdp)];

/// Records that the tables may hold before they are emptied.
const RECORDS_MAX: usize = 4096;
/// The length of a VRRP advert without addresses.
const ADVERT_HEADER: usize = 8;

/// A VRRP packet: what is taken for an advert is one, and says the same when it is written anew.
///
/// The first byte chooses the version, whether the rest is a datagram with its IPv4 header or a
/// message over IPv6, and whether the checksum is made right, since made-up ones never are.
///
/// # Panics
///
/// A promise is broken.
pub fn vrrp(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut bytes = rest.to_vec();
    let version = if choice & 1 == 0 { Version::V3 } else { Version::V2 };
    let ipv6 = choice & 2 != 0 && version == Version::V3;
    let authentication = match (version, choice & 8) {
        (Version::V2, 8) => Authentication::Simple(Password::new("secret").expect("it is short")),
        _ => Authentication::None,
    };
    if choice & 4 != 0 {
        let header = if ipv6 { 0 } else { 20 };
        correct(bytes.get_mut(header..).unwrap_or_default());
    }
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let filter = Filter {
        version,
        authentication,
        router_id: 51,
        interval: Duration::from_secs(1),
        addresses: vec![address(if ipv6 { "2001:db8::10" } else { "192.0.2.10" })],
        peers: Vec::new(),
        own: vec![address("10.0.0.1")],
    };
    let datagram = if ipv6 {
        let (source, destination) = (address("fe80::2"), address("ff02::12"));
        Ok(Datagram { source, destination, hop_limit: 255, message: &bytes })
    } else {
        Datagram::from_ipv4(&bytes)
    };
    let Ok(advert) = datagram.as_ref().map_err(|why| *why).and_then(|each| each.advert(&filter))
    else {
        return;
    };
    let Ok(Datagram { source, destination, .. }) = datagram else { return };
    assert_eq!(advert.router_id, filter.router_id);
    assert!(u8::try_from(advert.addresses.len()).is_ok(), "as many as one byte can count");
    assert!(advert.addresses.iter().all(|each| each.is_ipv6() == ipv6), "of one family");
    assert!(!advert.interval.is_zero());
    let format = Format { version, coverage: Coverage::PseudoHeader, authentication };
    let message = advert.message(&format, source, destination);
    let again = Datagram { source, destination, hop_limit: 255, message: &message };
    assert_eq!(again.advert(&filter).as_ref(), Ok(&advert));
}

/// A message of the sync channel, as decrypted: what is taken for one says the same when it is
/// written anew.
///
/// # Panics
///
/// A promise is broken.
pub fn sync(data: &[u8]) {
    if let Some(preamble) = data.first_chunk() {
        let _ = version_in(*preamble);
    }
    let Ok(message) = Message::decode(data) else { return };
    let bytes = message.encode().expect("what fitted fits again");
    assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message));
}

/// A probe or an answer, in a frame at the program and as a datagram at the daemon: a sealed probe
/// alone is turned round, and nothing else is changed.
///
/// # Panics
///
/// A promise is broken.
pub fn echo(data: &[u8]) {
    let mut frame = data.to_vec();
    let outcome = echo::answer(&mut Packet::new(&mut frame), &ECHO, || NEVER);
    assert_eq!(frame.len(), data.len());
    if outcome == Some(Outcome::Answered) {
        assert_eq!((&frame[..6], &frame[6..12]), (&data[6..12], &data[..6]));
        assert_eq!((&frame[26..30], &frame[30..34]), (&data[30..34], &data[26..30]));
    } else {
        assert_eq!(frame, data, "{outcome:?}");
    }
    let _ = Probe::from_bytes(data, ECHO.key, [10, 0, 0, 2], [10, 0, 0, 1]);
}

/// A frame at the program: parsed and steered over small tables. One that is not forwarded is as it
/// came; of one that is, the Ethernet addresses alone are others, or all of it is behind a header.
///
/// # Panics
///
/// A promise is broken.
pub fn xdp(data: &[u8]) {
    thread_local! {
        static TABLES: RefCell<Memory> = RefCell::new(tables());
    }
    TABLES.with_borrow_mut(|tables| {
        if tables.confirmed.borrow().len() + tables.half_open.borrow().len() > RECORDS_MAX {
            tables.confirmed.borrow_mut().clear();
            tables.half_open.borrow_mut().clear();
        }
        tables.datagrams.limit(RECORDS_MAX);
        // It makes sure itself that what is not forwarded is as it came.
        if let (Ok(interface), frame) = host::forward(tables, &PARAMETERS, data) {
            assert_eq!(interface, 3);
            assert_eq!(data[..6], OWN_MAC, "it was for us");
            let longer = frame.len() - data.len();
            let kept = if longer == 0 { 12 } else { 14 };
            assert!([0, 20, 48].contains(&longer));
            assert_eq!(frame[longer + kept..], data[kept..]);
        }
    });
}

/// A service whose slots are in every state, some of which no controller would write.
fn tables() -> Memory {
    let tables = Memory::new(service_key(Protocol::Tcp));
    tables.add(fragment::key_ipv4([192, 0, 2, 10], 6));
    for (number, entry) in (0..).zip(&tables.backends) {
        let [first, link] = BackendEntry::words([2, 0, 0, 0, 1, number], OWN_MAC, 3);
        entry.first.store(first);
        // The last one has no way.
        entry.link.store(if number == 4 { 0 } else { link });
        entry.life.store(Life::new(1, number != 3, number != 3).0);
    }
    for (number, kind) in [(1, TunnelKind::ipip(false)), (2, TunnelKind::gue(true, 6080))] {
        let entry = &tables.backends[number];
        let ends = [u32::MAX; 4];
        entry.tunnel.store(&Tunnel { kind, mtu: 1500, spread: 1, source: ends, destination: ends });
        entry.link.store(entry.link.load() | BackendEntry::TUNNEL);
    }
    let states = [
        Slot::settled(0),
        Slot::settled(4),
        Slot::settled(Slot::NONE),
        Slot::settled(999),
        Slot::new(1, Prior::Moving(2)),
        Slot::new(1, Prior::Moving(3)),
        Slot::new(2, Prior::Exceptions),
    ];
    let first = SPAN.base as usize;
    for (slot, state) in tables.slots[first..].iter().zip(states.iter().cycle()) {
        slot.set(*state);
    }
    tables
}

/// Makes the checksum of a VRRP message right, one that covers the message alone.
fn correct(message: &mut [u8]) {
    if message.len() < ADVERT_HEADER {
        return;
    }
    message[6..8].fill(0);
    let words =
        message.chunks(2).map(|word| u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
    let mut sum = words.map(u32::from).sum::<u32>();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded into 16 bits");
    message[6..8].copy_from_slice(&sum.to_be_bytes());
}
