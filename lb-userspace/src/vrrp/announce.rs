//! Telling the segment where an address is now: gratuitous ARP and unsolicited neighbour
//! advertisements, as whole Ethernet frames, and when they are due.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::packet::{HOP_LIMIT, PROTOCOL};
use crate::config::Garp;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Between the repetitions after a take-over: long enough for a switch that was busy, short enough
/// for a client that missed the first.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);

const BROADCAST: Mac = [0xff; 6];
/// `ff02::1` on Ethernet (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHER_TYPE_IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const IPV4_LENGTH: u16 = 20;
const ETHER_TYPE_ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
/// Ethernet, IPv4, lengths of their addresses.
const ARP_HEAD: &[u8; 6] = &[0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const ETHER_TYPE_IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Router and override flags, not the solicited flag (RFC 9568 section 8.2.2).
const NA_FLAGS: u8 = 0b1010_0000;
const OPTION_TARGET_MAC: u8 = 2;
/// The advertisement with its one option.
const NA_LENGTH: u8 = 32;

/// The Ethernet address of a virtual router (RFC 9568 section 7.3).
pub const fn virtual_mac(router_id: u8, ipv4: bool) -> Mac {
    [0x00, 0x00, 0x5e, 0x00, if ipv4 { 1 } else { 2 }, router_id]
}

/// Whether an Ethernet address is one of a virtual router.
pub const fn is_virtual_mac(mac: Mac) -> bool {
    matches!(mac, [0x00, 0x00, 0x5e, 0x00, 1 | 2, _])
}

/// An advert as a whole frame, from a virtual router's Ethernet address, by which switches learn where
/// it is (RFC 9568 section 7.2).
pub(super) fn advert(message: &[u8], source: IpAddr, mac: Mac) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("an advert has 64 addresses at most");
    match source {
        IpAddr::V4(source) => {
            let [high, low] = (IPV4_LENGTH + length).to_be_bytes();
            let (source, group) = (source.octets(), [224, 0, 0, 18]);
            // Internetwork control, do not fragment.
            let head = [0x45, 0xc0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL];
            let [high, low] = super::packet::sum(&[&head, &source, &group]).to_be_bytes();
            let ethernet = [&[0x01, 0x00, 0x5e, 0, 0, 18], &mac[..], &ETHER_TYPE_IPV4].concat();
            [&ethernet[..], &head, &[high, low], &source, &group, message].concat()
        }
        IpAddr::V6(source) => {
            let [high, low] = length.to_be_bytes();
            let head = [0x6c, 0, 0, 0, high, low, PROTOCOL, HOP_LIMIT];
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).octets();
            let ethernet = [&[0x33, 0x33, 0, 0, 0, 0x12], &mac[..], &ETHER_TYPE_IPV6].concat();
            [&ethernet[..], &head, &source.octets(), &group, message].concat()
        }
    }
}

/// The frame that tells everyone that `address` is at `mac`.
pub fn frame(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(address, mac),
        IpAddr::V6(address) => neighbour_advertisement(address, mac),
    }
}

/// A gratuitous ARP request (RFC 5944 section 4.6, RFC 9568 section 8.1.2): hosts update what they
/// know, and nobody answers.
fn arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    who_has(address, address, mac)
}

/// An ARP request (RFC 826) for `target` from `sender` at `mac`. A sender of 0.0.0.0 makes it a probe,
/// from which nobody learns anything (RFC 5227 section 1.1).
pub fn who_has(target: Ipv4Addr, sender: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let head = [&ARP_HEAD[..], &[0, ARP_REQUEST]].concat();
    let nobody: Mac = [0; 6];
    let (target, sender) = (target.octets(), sender.octets());
    [&BROADCAST[..], &mac, &ETHER_TYPE_ARP, &head, &mac, &sender, &nobody, &target].concat()
}

/// The sender of an ARP reply, as a whole frame: its address, and where that is.
pub fn arp_reply(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let message = frame.get(14..42)?;
    let reply = frame[12..14] == ETHER_TYPE_ARP
        && message[..6] == *ARP_HEAD
        && message[6..8] == [0, ARP_REPLY];
    let mac = *message.get(8..)?.first_chunk::<6>()?;
    let address = *message.get(14..)?.first_chunk::<4>()?;
    reply.then(|| (address.into(), mac))
}

/// An unsolicited neighbour advertisement (RFC 4861 section 4.4, RFC 9568 section 8.2.2).
fn neighbour_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let target = address.octets();
    let mut message = [
        &[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, NA_FLAGS, 0, 0, 0][..],
        &target,
        &[OPTION_TARGET_MAC, 1],
        &mac,
    ]
    .concat();
    let pseudo =
        [&target[..], &ALL_NODES.octets(), &[0, 0, 0, NA_LENGTH, 0, 0, 0, ICMPV6]].concat();
    let checksum = super::packet::sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    // Version 6, its length, ICMPv6, hop limit 255 (RFC 4861 section 7.1.2).
    let header = [0x60, 0, 0, 0, 0, NA_LENGTH, ICMPV6, 255];
    let ethernet = [&ALL_NODES_MAC[..], &mac, &ETHER_TYPE_IPV6].concat();
    [&ethernet[..], &header, &target, &ALL_NODES.octets(), &message].concat()
}

/// When a master announces its addresses.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    next: Option<Duration>,
    repetitions: u32,
}

impl Schedule {
    /// The addresses were taken: announce now, and so many times in all.
    pub fn start(&mut self, garp: Garp, now: Duration) {
        (self.next, self.repetitions) = (Some(now), garp.repeat);
    }

    /// Another router had the addresses as well: announce as often again, at the pace of repetitions.
    pub fn again(&mut self, garp: Garp, now: Duration) {
        let next = self.next.filter(|_| self.repetitions > 0);
        (self.next, self.repetitions) = (Some(next.unwrap_or(now)), garp.repeat);
    }

    /// The addresses are someone else's.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// When [`Schedule::is_due`] is to be asked.
    pub fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// Whether to announce now.
    pub fn is_due(&mut self, garp: Garp, now: Duration) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.repetitions = self.repetitions.saturating_sub(1);
        self.next = match (self.repetitions, garp.refresh) {
            (1.., _) => Some(now + REPEAT_PAUSE),
            (0, Duration::ZERO) => None,
            (0, refresh) => Some(now + refresh),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_gratuitous_arp_byte_for_byte() {
        let expected = [
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6], // Ethernet
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7],                   // request, from our MAC
            [192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10],             // and the address, for it
        ]
        .concat();
        assert_eq!(frame("192.0.2.10".parse().unwrap(), MAC), expected);
    }

    #[test]
    fn a_reply_to_a_request_is_read_and_nothing_else_is() {
        let (target, own) = ("192.0.2.10".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let request = who_has(target, own, MAC);
        assert_eq!(request[28..], [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10]);
        assert_eq!(arp_reply(&request), None, "a request is no answer");
        let mut reply = who_has(own, target, [2, 0, 0, 0, 0, 8]);
        reply[21] = ARP_REPLY;
        assert_eq!(arp_reply(&reply), Some((target, [2, 0, 0, 0, 0, 8])));
        reply.resize(60, 0);
        assert!(arp_reply(&reply).is_some(), "frames are filled up to 60 bytes");
        for length in 0..42 {
            assert_eq!(arp_reply(&reply[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_neighbour_advertisement_byte_for_byte() {
        let address: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let frame = frame(address.into(), MAC);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(frame[22..38], address.octets());
        assert_eq!(frame[38..54], ALL_NODES.octets());
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(frame[58..62], [0xa0, 0, 0, 0]);
        assert_eq!(frame[62..78], address.octets());
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 7]);
        // A checksum over a message that holds its own is 0 (RFC 1071).
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(crate::vrrp::packet::sum(&[&pseudo, &frame[54..]]), 0);
    }

    #[test]
    fn an_advert_from_a_virtual_router_byte_for_byte() {
        let mac = virtual_mac(51, true);
        let frame = advert(&[7; 12], "10.0.0.2".parse().unwrap(), mac);
        assert_eq!(frame[..14], [1, 0, 0x5e, 0, 0, 18, 0, 0, 0x5e, 0, 1, 51, 8, 0]);
        assert_eq!(frame[14..24], [0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 255, 112]);
        assert_eq!(crate::vrrp::packet::sum(&[&frame[14..34]]), 0);
        assert_eq!(frame[26..], [[10, 0, 0, 2], [224, 0, 0, 18], [7; 4], [7; 4], [7; 4]].concat());
        let frame = advert(&[7; 24], "fe80::2".parse().unwrap(), virtual_mac(51, false));
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 18, 0, 0, 0x5e, 0, 2, 51, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x6c, 0, 0, 0, 0, 24, 112, 255]);
        assert_eq!((frame.len(), frame[53], &frame[54..]), (78, 0x12, &[7; 24][..]));
    }

    #[test]
    fn announcements_are_repeated_and_refreshed() {
        let at = Duration::from_millis;
        let times = |garp: Garp| {
            let mut schedule = Schedule::default();
            assert!(!schedule.is_due(garp, at(0)));
            schedule.start(garp, at(1000));
            let mut times = Vec::new();
            while let Some(next) = schedule.deadline().filter(|next| *next < at(9000)) {
                assert!(!schedule.is_due(garp, next.saturating_sub(at(1))));
                assert!(schedule.is_due(garp, next));
                times.push(next.as_millis());
            }
            times
        };
        assert_eq!(times(Garp { repeat: 3, refresh: Duration::ZERO }), [1000, 1200, 1400]);
        let mut schedule = Schedule::default();
        let thrice = Garp { repeat: 3, refresh: Duration::ZERO };
        let mut announced = Vec::new();
        for ms in 0..2000 {
            if ms < 500 {
                schedule.again(thrice, at(ms));
            }
            if schedule.is_due(thrice, at(ms)) {
                announced.push(ms);
            }
        }
        assert_eq!(announced, [0, 200, 400, 600, 800, 1000], "whoever makes us, at our pace");
        let refreshed = Garp { repeat: 2, refresh: Duration::from_secs(3) };
        assert_eq!(times(refreshed), [1000, 1200, 4200, 7200]);
    }
}
