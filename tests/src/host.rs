//! What the program does with a frame, done on the host by the same rules: what the kernel's answer
//! is compared with, and what is fuzzed.

use lb_common::{
    flow::{self, Flow, mac_word},
    icmp::{self, Message},
    packet::Packet,
    reason::{Reason, Refusal},
    reject, rewrite,
    steer::{self, Constants, Flows},
    tunnel,
};

use crate::program::OWN_MAC;

/// Forwards a frame. Returns the interface through which it leaves, or why it is not forwarded, and
/// the frame that comes of it.
///
/// # Panics
///
/// A frame that is neither forwarded nor answered was changed.
pub fn forward<T: Flows>(
    tables: &T,
    constants: &impl Constants,
    frame: &[u8],
) -> (Result<u32, Reason>, Vec<u8>) {
    let mut out = frame.to_vec();
    match send(tables, constants, &mut out) {
        Ok(Leaving { interface, longer }) => (Ok(interface), longer.unwrap_or(out)),
        Err(Reason::Rejected) => rejected(out),
        Err(reason) => {
            let answered = reason.refusal() == Refusal::Answer;
            assert!(answered || out == frame, "{}: it was changed", reason.name());
            (Err(reason), out)
        }
    }
}

/// The answer of a service without backends, if there is one.
fn rejected(mut frame: Vec<u8>) -> (Result<u32, Reason>, Vec<u8>) {
    let packet = Packet::new(&mut frame);
    let ipv6 = flow::is_ipv6(&packet, is_ours);
    let plan = if ipv6 { reject::plan_ipv6(&packet) } else { reject::plan_ipv4(&packet) };
    let Some(plan) = plan else { return (Err(Reason::NoBackend), frame) };
    frame.splice(..0, std::iter::repeat_n(0, plan.before));
    frame.truncate(plan.length);
    let write = if ipv6 { reject::write_ipv6 } else { reject::write_ipv4 };
    write(&mut Packet::new(&mut frame), &plan.answer)
        .expect("the frame is as long as the plan says");
    (Err(Reason::Rejected), frame)
}

struct Leaving {
    interface: u32,
    /// The frame, where it is another one behind a tunnel's header.
    longer: Option<Vec<u8>>,
}

fn send<T: Flows>(
    tables: &T,
    constants: &impl Constants,
    frame: &mut [u8],
) -> Result<Leaving, Reason> {
    let mut packet = Packet::new(frame);
    let flow = match flow::parse(&packet, is_ours) {
        Err(Reason::Icmp) => about(tables, constants, &mut packet)?,
        parsed => parsed?,
    };
    let way = steer::steer(tables, constants, &flow)?;
    if let Some(interface) = rewrite::l2(&mut packet, way.backend)? {
        return Ok(Leaving { interface, longer: None });
    }
    let hash = steer::flow_hash(constants.seed(), &flow);
    let plan = tunnel::plan(&packet, way.backend, hash)?;
    let mut longer = [&vec![0; plan.overhead()], &*frame].concat();
    let interface = plan.write(&mut Packet::new(&mut longer))?;
    Ok(Leaving { interface, longer: Some(longer) })
}

/// The flow that an error is about; a ping is answered.
fn about<T: Flows>(
    tables: &T,
    constants: &impl Constants,
    packet: &mut Packet<'_>,
) -> Result<Flow, Reason> {
    let ipv6 = flow::is_ipv6(packet, is_ours);
    match if ipv6 { icmp::read_ipv6(packet) } else { icmp::read_ipv4(packet) }? {
        Message::Error(flow) => {
            let known = steer::steer(tables, constants, &flow);
            match known {
                Err(Reason::NoService) => Err(Reason::Icmp),
                Err(Reason::Rejected) => Err(Reason::NoBackend),
                _ => Ok(flow),
            }
        }
        Message::Echo(key) => {
            let answer = if ipv6 { icmp::answer_ipv6 } else { icmp::answer_ipv4 };
            let wanted = steer::answers_ping(tables, constants, key);
            Err(if wanted && answer(packet) { Reason::Ping } else { Reason::Icmp })
        }
    }
}

fn is_ours(mac: u64) -> bool {
    mac == mac_word(OWN_MAC)
}
