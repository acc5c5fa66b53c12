//! Turning a frame towards its backend, one function a forwarding mode.

use crate::{
    layout::BackendEntry,
    packet::{EthernetWords, Packet},
    reason::Reason,
};

/// `forward = "l2"`: new Ethernet addresses, everything above untouched (direct server return).
///
/// Returns the index of the interface through which the frame leaves; none if the backend is behind
/// a tunnel (see [`crate::tunnel`]).
#[inline(always)]
pub fn l2(packet: &mut Packet<'_>, backend: &BackendEntry) -> Result<Option<u32>, Reason> {
    let link = backend.link.load();
    // Its sign tells of a tunnel.
    let interface = link.cast_signed() >> 32;
    if interface <= 0 {
        return if interface == 0 { Err(Reason::NoNextHop) } else { Ok(None) };
    }
    let Some(ethernet) = packet.at_mut::<EthernetWords>(0) else {
        return Err(Reason::Malformed);
    };
    ethernet.first = backend.first.load().to_le_bytes();
    ethernet.second = (link as u32).to_le_bytes();
    Ok(Some(interface.cast_unsigned() as u32))
}
