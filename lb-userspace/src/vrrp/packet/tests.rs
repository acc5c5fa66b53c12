//! Adverts byte for byte, and every way in which one can be wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::vrrp::auth::Password;

pub(crate) const ROUTER_ID: u8 = 51;
const SENDER: &str = "10.0.0.2";
const SENDER6: &str = "fe80::2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn format(version: Version) -> Format {
    let authentication = match version {
        Version::V2 => Authentication::Simple(Password::new("secret").unwrap()),
        Version::V3 => Authentication::None,
    };
    Format { version, coverage: Coverage::PseudoHeader, authentication }
}

/// The filter of an instance with two addresses.
pub(crate) fn filter(version: Version) -> Filter {
    Filter {
        version,
        authentication: format(version).authentication,
        router_id: ROUTER_ID,
        interval: Duration::from_secs(1),
        addresses: vec![ip("192.0.2.10"), ip("192.0.2.11")],
        peers: Vec::new(),
        own: vec![ip("10.0.0.1"), ip("fe80::1")],
    }
}

pub(crate) fn advert() -> Advert {
    Advert {
        router_id: ROUTER_ID,
        priority: 150,
        interval: Duration::from_secs(1),
        addresses: filter(Version::V3).addresses,
    }
}

fn advert6() -> Advert {
    let addresses = vec![ip("fe80::a"), ip("2001:db8::10")];
    Advert { addresses, ..advert() }
}

fn group(source: IpAddr) -> IpAddr {
    if source.is_ipv4() { GROUP_V4.into() } else { GROUP_V6.into() }
}

fn receive(message: &[u8], source: &str, filter: &Filter) -> Result<Advert, Discard> {
    let source = ip(source);
    Datagram { source, destination: group(source), hop_limit: HOP_LIMIT, message }.advert(filter)
}

/// Makes the checksum right again after a change.
fn mend(message: &mut [u8], version: Version, source: &str) {
    let Some(field) = message.get_mut(CHECKSUM_AT..HEADER_LENGTH) else { return };
    field.fill(0);
    let source = ip(source);
    let pseudo = pseudo_header(source, group(source), message.len());
    let checksum = match version {
        Version::V2 => sum(&[message]),
        Version::V3 => sum(&[&pseudo, message]),
    };
    message[CHECKSUM_AT..HEADER_LENGTH].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn a_v3_advert_byte_for_byte() {
    let (source, group) = (ip(SENDER), GROUP_V4.into());
    let interval = Duration::from_millis(2560);
    let message = Advert { interval, ..advert() }.message(&format(Version::V3), source, group);
    // Version 3 type 1, router id 51, priority 150, 2 addresses, 256 hundredths of a second.
    let expected = [0x31, 51, 150, 2, 0x01, 0x00];
    assert_eq!(message[..6], expected);
    assert_eq!(message[8..], [192, 0, 2, 10, 192, 0, 2, 11]);
    // By hand, over 10.0.0.2, 224.0.0.18, 0, 112, 16 and the message.
    let words = [
        0x0a00, 0x0002, 0xe000, 0x0012, 0x0070, 0x0010, 0x3133, 0x9602, 0x0100, 0xc000, 0x020a,
        0xc000, 0x020b_u32,
    ];
    let sum: u32 = words.iter().sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    assert_eq!(message[6..8], checksum.to_be_bytes());
}

#[test]
fn a_v2_advert_byte_for_byte() {
    let message = advert().message(&format(Version::V2), ip(SENDER), GROUP_V4.into());
    // Version 2 type 1, router id 51, priority 150, 2 addresses, simple password, 1 second.
    assert_eq!(message[..6], [0x21, 51, 150, 2, 1, 1]);
    assert_eq!(message[8..16], [192, 0, 2, 10, 192, 0, 2, 11]);
    assert_eq!(message[16..], *b"secret\0\0");
    assert_eq!(sum(&[&message]), 0);
}

#[test]
fn what_is_sent_is_understood() {
    for version in [Version::V2, Version::V3] {
        let message = advert().message(&format(version), ip(SENDER), GROUP_V4.into());
        assert_eq!(receive(&message, SENDER, &filter(version)), Ok(advert()));
    }
    let message = advert6().message(&format(Version::V3), ip(SENDER6), GROUP_V6.into());
    assert_eq!(receive(&message, SENDER6, &filter(Version::V3)), Ok(advert6()));
}

#[test]
fn both_checksums_of_v3_over_ipv4_are_understood_and_one_over_ipv6() {
    let bare = Format { coverage: Coverage::Message, ..format(Version::V3) };
    let with = advert().message(&format(Version::V3), ip(SENDER), GROUP_V4.into());
    let without = advert().message(&bare, ip(SENDER), GROUP_V4.into());
    assert_ne!(with, without);
    assert_eq!(receive(&without, SENDER, &filter(Version::V3)), Ok(advert()));

    // Over IPv6 there is no choice.
    let six = advert6().message(&bare, ip(SENDER6), GROUP_V6.into());
    assert_eq!(receive(&six, SENDER6, &filter(Version::V3)), Ok(advert6()));
    let mut cut = six;
    cut[CHECKSUM_AT..HEADER_LENGTH].fill(0);
    let checksum = sum(&[&cut]).to_be_bytes();
    cut[CHECKSUM_AT..HEADER_LENGTH].copy_from_slice(&checksum);
    assert_eq!(receive(&cut, SENDER6, &filter(Version::V3)), Err(Discard::Checksum));
}

#[test]
fn what_the_rfcs_leave_open_is_accepted() {
    // Reserved bits are ignored on receipt (RFC 9568 section 5.2.6).
    let mut message = advert().message(&format(Version::V3), ip(SENDER), GROUP_V4.into());
    message[4] |= 0xf0;
    mend(&mut message, Version::V3, SENDER);
    assert_eq!(receive(&message, SENDER, &filter(Version::V3)), Ok(advert()));

    // v3: another interval and other addresses are no reason to be deaf.
    let interval = Duration::from_millis(30);
    let other = Advert { interval, addresses: vec![ip("192.0.2.99")], ..advert() };
    let message = other.message(&format(Version::V3), ip(SENDER), GROUP_V4.into());
    assert_eq!(receive(&message, SENDER, &filter(Version::V3)), Ok(other));

    // v2: the owner of the addresses knows better than we do (RFC 3768 section 7.1).
    let owner = Advert { priority: 255, addresses: vec![ip("192.0.2.99")], ..advert() };
    let message = owner.message(&format(Version::V2), ip(SENDER), GROUP_V4.into());
    assert_eq!(receive(&message, SENDER, &filter(Version::V2)), Ok(owner));

    // v2 without a password: the data is not looked at.
    let open = Filter { authentication: Authentication::None, ..filter(Version::V2) };
    let with_password = format(Version::V2);
    let without = Format { authentication: Authentication::None, ..with_password };
    let mut message = advert().message(&without, ip(SENDER), GROUP_V4.into());
    message[16..].copy_from_slice(b"whatever");
    mend(&mut message, Version::V2, SENDER);
    assert_eq!(receive(&message, SENDER, &open), Ok(advert()));

    // Priorities are 0 to 255, all of them; the order of addresses means nothing.
    let mut turned = advert();
    turned.addresses.reverse();
    for priority in [0, 1, 254, 255] {
        let advert = Advert { priority, ..turned.clone() };
        let message = advert.message(&with_password, ip(SENDER), GROUP_V4.into());
        assert_eq!(receive(&message, SENDER, &filter(Version::V2)), Ok(advert));
    }
}

/// A packet that is wrong in one way.
pub(crate) struct Hostile {
    pub(crate) what: &'static str,
    pub(crate) version: Version,
    pub(crate) source: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) message: Vec<u8>,
    pub(crate) expected: Discard,
}

/// Every way in which an advert can be wrong, for a filter without peers.
pub(crate) fn hostile() -> Vec<Hostile> {
    type Change = fn(&mut Vec<u8>);
    use Discard as D;
    // What is wrong, in which version and from whom, the change, whether the checksum is mended.
    let cases: &[(&str, Version, &str, Change, bool, Discard)] = &[
        ("nothing at all", Version::V3, SENDER, |m| m.clear(), false, D::Truncated),
        ("one octet", Version::V3, SENDER, |m| m.truncate(1), false, D::Truncated),
        ("seven octets", Version::V3, SENDER, |m| m.truncate(7), false, D::Truncated),
        ("a header alone", Version::V3, SENDER, |m| m.truncate(8), true, D::Truncated),
        ("half an address", Version::V3, SENDER, |m| m.truncate(14), true, D::Truncated),
        ("one address too few", Version::V3, SENDER, |m| m.truncate(12), true, D::Truncated),
        ("three addresses promised", Version::V3, SENDER, |m| m[3] = 3, true, D::Truncated),
        ("255 addresses promised", Version::V3, SENDER, |m| m[3] = 255, true, D::Truncated),
        ("one address promised", Version::V3, SENDER, |m| m[3] = 1, true, D::Length),
        ("an octet too many", Version::V3, SENDER, |m| m.push(0), true, D::Length),
        ("a password in v3", Version::V3, SENDER, |m| m.extend(b"secret\0\0"), true, D::Length),
        ("64 KB", Version::V3, SENDER, |m| m.resize(65_000, 0), true, D::Length),
        ("no address", Version::V3, SENDER, |m| m[3] = 0, true, D::Count),
        (
            "no address, none there",
            Version::V3,
            SENDER,
            |m| {
                m.truncate(8);
                m[3] = 0;
            },
            true,
            D::Count,
        ),
        ("version 0", Version::V3, SENDER, |m| m[0] = 0x01, true, D::Version),
        ("version 1", Version::V3, SENDER, |m| m[0] = 0x11, true, D::Version),
        ("version 2 to version 3", Version::V3, SENDER, |m| m[0] = 0x21, true, D::Version),
        ("version 4", Version::V3, SENDER, |m| m[0] = 0x41, true, D::Version),
        ("version 15", Version::V3, SENDER, |m| m[0] = 0xf1, true, D::Version),
        ("type 0", Version::V3, SENDER, |m| m[0] = 0x30, true, D::Type),
        ("type 2", Version::V3, SENDER, |m| m[0] = 0x32, true, D::Type),
        ("type 15", Version::V3, SENDER, |m| m[0] = 0x3f, true, D::Type),
        ("router id 0", Version::V3, SENDER, |m| m[1] = 0, true, D::RouterId),
        ("router id 50", Version::V3, SENDER, |m| m[1] = 50, true, D::RouterId),
        ("router id 255", Version::V3, SENDER, |m| m[1] = 255, true, D::RouterId),
        ("a flipped priority bit", Version::V3, SENDER, |m| m[2] ^= 1, false, D::Checksum),
        ("a flipped address bit", Version::V3, SENDER, |m| m[11] ^= 0x80, false, D::Checksum),
        ("no checksum", Version::V3, SENDER, |m| m[6..8].fill(0), false, D::Checksum),
        ("a checksum of ones", Version::V3, SENDER, |m| m[6..8].fill(0xff), false, D::Checksum),
        ("an interval of zero", Version::V3, SENDER, |m| m[4..6].fill(0), true, D::IntervalZero),
        (
            "only reserved bits",
            Version::V3,
            SENDER,
            |m| {
                m[4] = 0xf0;
                m[5] = 0;
            },
            true,
            D::IntervalZero,
        ),
        ("our own, come back", Version::V3, "10.0.0.1", |_| {}, true, D::OwnEcho),
        ("our own over IPv6", Version::V3, "fe80::1", |_| {}, true, D::OwnEcho),
        ("IPv6, a flipped bit", Version::V3, SENDER6, |m| m[30] ^= 4, false, D::Checksum),
        ("IPv6, half an address", Version::V3, SENDER6, |m| m.truncate(32), true, D::Truncated),
        ("IPv6, an octet too many", Version::V3, SENDER6, |m| m.push(9), true, D::Length),
        ("IPv6, no address", Version::V3, SENDER6, |m| m[3] = 0, true, D::Count),
        ("v2, version 3", Version::V2, SENDER, |m| m[0] = 0x31, true, D::Version),
        ("v2, type 7", Version::V2, SENDER, |m| m[0] = 0x27, true, D::Type),
        ("v2, no password data", Version::V2, SENDER, |m| m.truncate(16), true, D::Truncated),
        ("v2, half a password", Version::V2, SENDER, |m| m.truncate(20), true, D::Truncated),
        ("v2, an octet too many", Version::V2, SENDER, |m| m.push(0), true, D::Length),
        ("v2, an address promised", Version::V2, SENDER, |m| m[3] = 4, true, D::Truncated),
        ("v2, two hidden in the data", Version::V2, SENDER, |m| m[3] = 1, true, D::Length),
        ("v2, no address", Version::V2, SENDER, |m| m[3] = 0, true, D::Count),
        ("v2, a flipped bit", Version::V2, SENDER, |m| m[16] ^= 1, false, D::Checksum),
        ("v2, no authentication", Version::V2, SENDER, |m| m[4] = 0, true, D::AuthenticationType),
        ("v2, an IP header's", Version::V2, SENDER, |m| m[4] = 2, true, D::AuthenticationType),
        ("v2, unknown", Version::V2, SENDER, |m| m[4] = 255, true, D::AuthenticationType),
        ("v2, another password", Version::V2, SENDER, |m| m[16] = b'S', true, D::Password),
        ("v2, a longer password", Version::V2, SENDER, |m| m[23] = b'!', true, D::Password),
        ("v2, an interval of zero", Version::V2, SENDER, |m| m[5] = 0, true, D::Interval),
        ("v2, another interval", Version::V2, SENDER, |m| m[5] = 2, true, D::Interval),
        ("v2, another address", Version::V2, SENDER, |m| m[11] = 99, true, D::Addresses),
        ("v2, one address twice", Version::V2, SENDER, |m| m[15] = 10, true, D::Addresses),
    ];
    let mut all: Vec<Hostile> = cases
        .iter()
        .map(|(what, version, source, change, mended, expected)| {
            let advert = if ip(source).is_ipv4() { advert() } else { advert6() };
            let source_address = ip(source);
            let mut message =
                advert.message(&format(*version), source_address, group(source_address));
            change(&mut message);
            if *mended {
                mend(&mut message, *version, source);
            }
            let (version, expected) = (*version, *expected);
            Hostile { what, version, source: source_address, hop_limit: 255, message, expected }
        })
        .collect();
    for (what, hop_limit) in [("a TTL of 254", 254), ("a TTL of 1", 1), ("a TTL of 0", 0)] {
        let message = advert().message(&format(Version::V3), ip(SENDER), GROUP_V4.into());
        let (version, expected) = (Version::V3, D::HopLimit);
        all.push(Hostile { what, version, source: ip(SENDER), hop_limit, message, expected });
    }
    all
}

#[test]
fn whatever_is_wrong_has_its_name() {
    let hostile = hostile();
    assert!(hostile.len() >= 40);
    for Hostile { what, version, source, hop_limit, message, expected } in &hostile {
        let (source, hop_limit) = (*source, *hop_limit);
        let datagram = Datagram { source, destination: group(source), hop_limit, message };
        assert_eq!(datagram.advert(&filter(*version)), Err(*expected), "{what}");
    }
    let seen = |discard| hostile.iter().any(|case| case.expected == discard);
    let elsewhere = [Discard::IpHeader, Discard::UnknownPeer];
    for discard in Discard::ALL {
        assert!(seen(discard) != elsewhere.contains(&discard), "{discard:?} has no case");
    }
}

#[test]
fn with_unicast_only_peers_are_heard() {
    let us = ip("10.0.0.1");
    let message = advert().message(&format(Version::V3), ip(SENDER), us);
    let mut filter = filter(Version::V3);
    let datagram =
        Datagram { source: ip(SENDER), destination: us, hop_limit: HOP_LIMIT, message: &message };
    filter.peers = vec![ip("10.0.0.3")];
    assert_eq!(datagram.advert(&filter), Err(Discard::UnknownPeer));
    filter.peers = vec![ip("10.0.0.3"), ip(SENDER)];
    assert_eq!(datagram.advert(&filter), Ok(advert()));
}

#[test]
fn ip_headers() {
    let message = advert().message(&format(Version::V3), ip(SENDER), GROUP_V4.into());
    let packet = |options: usize| {
        let header = 20 + options;
        let total = u16::try_from(header + message.len()).unwrap().to_be_bytes();
        let mut packet = vec![0; header];
        packet[0] = 0x40 + u8::try_from(header / 4).unwrap();
        packet[2..4].copy_from_slice(&total);
        (packet[8], packet[9]) = (255, PROTOCOL);
        packet[12..16].copy_from_slice(&[10, 0, 0, 2]);
        packet[16..20].copy_from_slice(&[224, 0, 0, 18]);
        packet.extend(&message);
        packet
    };
    let expected = Datagram {
        source: ip(SENDER),
        destination: GROUP_V4.into(),
        hop_limit: 255,
        message: &message,
    };
    for options in [0, 4, 40] {
        assert_eq!(Datagram::from_ipv4(&packet(options)), Ok(expected));
        // What a link pads short frames with is not part of the packet.
        let padded = [packet(options), vec![0; 6]].concat();
        assert_eq!(Datagram::from_ipv4(&padded), Ok(expected));
    }
    let changed = |at: usize, value: u8| {
        let mut packet = packet(0);
        packet[at] = value;
        Datagram::from_ipv4(&packet).map(|_| ())
    };
    assert_eq!(changed(0, 0x65), Err(Discard::IpHeader), "version 6");
    assert_eq!(changed(0, 0x44), Err(Discard::IpHeader), "a header of 16 octets");
    assert_eq!(changed(9, 17), Err(Discard::IpHeader), "UDP");
    assert_eq!(changed(3, 19), Err(Discard::IpHeader), "a packet shorter than its header");
    assert_eq!(changed(3, 200), Err(Discard::Truncated), "a packet longer than what arrived");
    for length in 0..20 {
        assert_eq!(Datagram::from_ipv4(&packet(0)[..length]), Err(Discard::IpHeader));
    }
}

proptest::proptest! {
    /// Bytes from outside never panic, and what is understood is what was said.
    #[test]
    fn any_bytes_are_read_without_harm(
        message in proptest::collection::vec(proptest::num::u8::ANY, 0..600),
        v2 in proptest::bool::ANY,
        v4 in proptest::bool::ANY,
    ) {
        let version = if v2 { Version::V2 } else { Version::V3 };
        let source = if v4 { SENDER } else { SENDER6 };
        let _ = Datagram::from_ipv4(&message);
        let mut message = message;
        for mended in [false, true] {
            if mended && message.len() > HEADER_LENGTH {
                // Far enough for random bytes to pass the first checks now and then.
                (message[0], message[1], message[3]) = (version.number() << 4 | 1, ROUTER_ID, 1);
                mend(&mut message, version, source);
            }
            if let Ok(advert) = receive(&message, source, &filter(version)) {
                assert_eq!(advert.router_id, ROUTER_ID);
                assert!(!advert.addresses.is_empty() && !advert.interval.is_zero());
            }
        }
    }
}
