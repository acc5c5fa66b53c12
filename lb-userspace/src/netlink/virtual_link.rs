//! Interfaces of virtual routers' own: macvlans on top of another interface, with the virtual router's
//! Ethernet address (RFC 9568 section 7.3). The kernel then answers ARP and neighbour solicitations
//! for what is on them with that address, and the network adapter lets its frames in.

use std::{fs, io, path::Path};

use rtnetlink::{
    LinkMacVlan, LinkUnspec,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage as Message,
        link::{LinkMessage, MacVlanMode},
    },
};

use super::{error::Error, io::Kernel};

/// Kernel parameters of the interface itself, below `/proc/sys/net`. Packets come in by it whose way
/// back is the parent's, and it needs no address of its own.
const OWN: [(&str, &str); 3] = [
    ("ipv4/conf/LINK/rp_filter", "2"),
    ("ipv6/conf/LINK/addr_gen_mode", "1"),
    ("ipv6/conf/LINK/accept_ra", "0"),
];
/// Of the parent: it answers for its own addresses alone, not for those on top of it, and asks in
/// their name alone.
const PARENT: [(&str, &str); 2] =
    [("ipv4/conf/LINK/arp_ignore", "1"), ("ipv4/conf/LINK/arp_announce", "2")];

impl Kernel {
    /// Makes such an interface on top of `parent`, a name and an index, and switches it on; or leaves
    /// none behind.
    pub(crate) async fn add_virtual_link(
        &self,
        name: &str,
        mac: [u8; 6],
        parent: (&str, u32),
    ) -> Result<(), Error> {
        let what = "make a virtual router's interface (macvlan)";
        // In any other mode, what another router says from the same address would not reach the
        // parent, where adverts are heard.
        let message =
            LinkMacVlan::new(name, parent.1, MacVlanMode::Bridge).address(mac.to_vec()).build();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.exchange(what, Message::NewLink(message), flags).await?;
        let outcome = self.switch_on(name, parent.0).await;
        if outcome.is_err() {
            let link = LinkUnspec::new_with_name(name).build();
            self.exchange(what, Message::DelLink(link), NLM_F_REQUEST | NLM_F_ACK).await?;
        }
        outcome
    }

    async fn switch_on(&self, name: &str, parent: &str) -> Result<(), Error> {
        let set = |settings: &[(&str, &str)], link: &str| {
            settings.iter().try_for_each(|(key, value)| set(&key.replace("LINK", link), value))
        };
        let what = "set the parameters of a virtual router's interface and of the one below";
        set(&PARENT, parent)
            .and_then(|()| set(&OWN, name))
            .map_err(|cause| Error::Refused { what, cause })?;
        let up = LinkUnspec::new_with_name(name).up().build();
        let what = "switch a virtual router's interface on";
        self.exchange(what, Message::SetLink(up), NLM_F_REQUEST | NLM_F_ACK).await.map(drop)
    }

    /// Removes an interface, with its addresses; nothing if it is gone.
    pub(crate) async fn remove_link(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = "remove a virtual router's interface";
        match self.exchange(what, Message::DelLink(message), NLM_F_REQUEST | NLM_F_ACK).await {
            Err(Error::Refused { cause, .. }) if cause.raw_os_error() == Some(libc::ENODEV) => {
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }
}

/// Sets a kernel parameter; one that this kernel does not have (IPv6 may be missing) needs no value.
fn set(key: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(key), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
