//! Addresses on interfaces: which there are, one more, one less.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::{
    AddressMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
    },
};

use super::{error::Error, io::Kernel};
use crate::config::Prefix;

/// "For ever", in lifetimes of addresses (RFC 4861 section 4.6.2).
const FOR_EVER: u32 = u32::MAX;

impl Kernel {
    /// The addresses of all interfaces, each with its interface's index, in the kernel's order:
    /// a network's primary address comes before its secondary ones.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, Prefix)>, Error> {
        let question = Message::GetAddress(AddressMessage::default());
        let answers = self.dump("list addresses", question).await?;
        let address = |answer| match answer {
            Message::NewAddress(message) => address(&message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Puts an address on an interface; true unless it is there already. It serves at once
    /// (no duplicate detection: another balancer may still have it), and over IPv6 it is never
    /// chosen as the source of what this machine asks others (preferred lifetime 0).
    pub(crate) async fn add_address(&self, index: u32, prefix: Prefix) -> Result<bool, Error> {
        let mut message = message(index, prefix);
        if prefix.address.is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, FOR_EVER);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let what = "put an address on an interface";
        match self.exchange(what, Message::NewAddress(message), flags).await {
            Err(Error::Refused { cause, .. }) if cause.raw_os_error() == Some(libc::EEXIST) => {
                Ok(false)
            }
            outcome => outcome.map(|_| true),
        }
    }

    /// Takes an address off an interface; true unless it was not there.
    pub(crate) async fn remove_address(&self, index: u32, prefix: Prefix) -> Result<bool, Error> {
        let message = Message::DelAddress(message(index, prefix));
        let what = "take an address off an interface";
        match self.exchange(what, message, NLM_F_REQUEST | NLM_F_ACK).await {
            Err(Error::Refused { cause, .. })
                if matches!(cause.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) =>
            {
                Ok(false)
            }
            outcome => outcome.map(|_| true),
        }
    }
}

fn message(index: u32, prefix: Prefix) -> AddressMessage {
    let Prefix { address, length } = prefix;
    match address {
        IpAddr::V4(v4) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, length).build()
        }
        IpAddr::V6(v6) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, length).build()
        }
    }
}

/// `IFA_LOCAL` is ours where both are given: on a point-to-point link `IFA_ADDRESS` is the peer's
/// (`linux/if_addr.h`).
fn address(message: &AddressMessage) -> Option<(u32, Prefix)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let other = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let length = message.header.prefix_len;
    Some((message.header.index, Prefix { address: local.or(other)?, length }))
}
