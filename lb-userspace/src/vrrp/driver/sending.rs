//! Adverts and announcements.

use std::net::IpAddr;

use tracing::{debug, error, warn};

use super::{Driver, Running};
use crate::vrrp::{
    announce,
    io::{FrameSocket, group as multicast_group},
};

impl Driver {
    pub(super) fn send(&mut self, position: usize, priority: u8) {
        let Running { instance, socket: Some(socket), .. } = &mut self.running[position] else {
            return;
        };
        let source = instance.fsm.settings().own;
        let spec = &instance.spec;
        let ipv4 = spec.is_ipv4();
        let group = [multicast_group(ipv4)];
        if spec.virtual_mac {
            let mac = announce::virtual_mac(spec.router_id, ipv4);
            let Some(frames) = opened(&mut self.frames) else { return };
            let message = instance.advert(priority, group[0]);
            let frame = announce::advert(&message, source, mac);
            if let Err(error) = frames.send(&frame, socket.index()) {
                debug!(instance = %instance.spec.name, %error, "an advert was not sent");
            }
            return;
        }
        let peers = spec.unicast_peers.clone();
        let to: &[IpAddr] = if peers.is_empty() { &group } else { &peers };
        for to in to {
            let message = instance.advert(priority, *to);
            if let Err(error) = socket.send(&message, source, *to) {
                // The links' news tell why; one advert in three is enough.
                debug!(instance = %instance.spec.name, %to, %error, "an advert was not sent");
            }
        }
    }

    /// Sends the announcements that are due.
    pub(super) fn announce(&mut self) {
        let now = self.now();
        for Running { instance, .. } in &mut self.running {
            if !instance.announcements.is_due(instance.spec.garp, now) {
                continue;
            }
            let spec = &instance.spec;
            let Some(link) = self.facts.links.get(&spec.interface) else { continue };
            let Some(frames) = opened(&mut self.frames) else { continue };
            let mac = if spec.virtual_mac {
                announce::virtual_mac(spec.router_id, spec.is_ipv4())
            } else {
                link.mac
            };
            for prefix in &spec.addresses {
                let frame = announce::frame(prefix.address, mac);
                if let Err(error) = frames.send(&frame, link.index) {
                    warn!(address = %prefix.address, %error, "cannot announce an address");
                }
            }
        }
    }
}

fn opened(frames: &mut Option<FrameSocket>) -> Option<&FrameSocket> {
    if frames.is_none() {
        *frames = FrameSocket::open().map_err(|error| error!("{error}")).ok();
    }
    frames.as_ref()
}
