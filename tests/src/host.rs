//! What the program does with a frame, done on the host by the same rules: what the kernel's answer
//! is compared with, and what is fuzzed.

use lb_common::{
    answer::Plan,
    flow::{self, Flow, mac_word},
    fragment::{self, Fragments},
    icmp::{self, Message},
    packet::Packet,
    reason::{Reason, Refusal},
    reject, rewrite,
    steer::{self, Constants},
    too_big, tunnel,
};

use crate::program::OWN_MAC;

/// Forwards a frame. Returns the interface through which it leaves, or why it is not forwarded, and
/// the frame that comes of it.
///
/// # Panics
///
/// A frame that is neither forwarded nor answered was changed.
pub fn forward<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    frame: &[u8],
) -> (Result<u32, Reason>, Vec<u8>) {
    let mut out = frame.to_vec();
    let reason = match send(tables, constants, &mut out) {
        Ok(Leaving { interface, longer }) => return (Ok(interface), longer.unwrap_or(out)),
        Err(Refused { reason, fits }) => match (reason, fits) {
            (Reason::Rejected, _) => rejected(&mut out),
            (Reason::TooBig, Some(fits)) => told(&mut out, fits),
            (reason, _) => reason,
        },
    };
    let answered = reason.refusal() == Refusal::Answer;
    assert!(answered || out == frame, "{}: it was changed", reason.name());
    (Err(reason), out)
}

/// The answer of a service without backends, if there is one.
fn rejected(frame: &mut Vec<u8>) -> Reason {
    let is_answered = answer(
        frame,
        [&reject::plan_ipv4, &reject::plan_ipv6],
        [reject::write_ipv4, reject::write_ipv6],
    );
    if is_answered { Reason::Rejected } else { Reason::NoBackend }
}

/// The answer to a packet that does not fit its tunnel, if there is one.
fn told(frame: &mut Vec<u8>, fits: u32) -> Reason {
    let is_answered = answer(
        frame,
        [&|packet| too_big::plan_ipv4(packet, fits), &|packet| too_big::plan_ipv6(packet, fits)],
        [too_big::write_ipv4, too_big::write_ipv6],
    );
    if is_answered { Reason::TooBigAnswered } else { Reason::TooBig }
}

type Planning<'p, A> = dyn Fn(&Packet<'_>) -> Option<Plan<A>> + 'p;

/// Plans and writes an answer in place, if there is one: the ways for IPv4 and for IPv6.
fn answer<A>(
    frame: &mut Vec<u8>,
    plan: [&Planning<'_, A>; 2],
    write: [fn(&mut Packet<'_>, &A) -> Option<()>; 2],
) -> bool {
    let packet = Packet::new(frame);
    let version = usize::from(flow::is_ipv6(&packet, is_ours));
    let Some(plan) = plan[version](&packet) else { return false };
    frame.splice(..0, std::iter::repeat_n(0, plan.before));
    frame.truncate(plan.length);
    let written = write[version](&mut Packet::new(frame), &plan.answer);
    written.expect("the frame is as long as the plan says");
    true
}

struct Leaving {
    interface: u32,
    /// The frame, where it is another one behind a tunnel's header.
    longer: Option<Vec<u8>>,
}

struct Refused {
    reason: Reason,
    /// What would have fit, if the sender may be told.
    fits: Option<u32>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, fits: None }
    }
}

fn send<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    frame: &mut [u8],
) -> Result<Leaving, Refused> {
    let mut packet = Packet::new(frame);
    let parsed = flow::parse(&packet, is_ours);
    let is_error = parsed == Err(Reason::Icmp);
    let flow = match parsed {
        Err(Reason::Icmp) => about(tables, constants, &mut packet)?,
        Err(Reason::Fragment) => followed(tables, constants, &packet)?,
        parsed => parsed?,
    };
    let way = steer::steer(tables, constants, &flow)?;
    if let Some(interface) = rewrite::l2(&mut packet, way.backend)? {
        return Ok(Leaving { interface, longer: None });
    }
    let hash = steer::flow_hash(constants.seed(), &flow);
    let plan = tunnel::plan(&packet, way.backend, hash).map_err(|reason| {
        let fits = (!is_error).then(|| tunnel::fits(way.backend));
        Refused { reason, fits }
    })?;
    let mut longer = [&vec![0; plan.overhead()], &*frame].concat();
    let interface = plan.write(&mut Packet::new(&mut longer))?;
    Ok(Leaving { interface, longer: Some(longer) })
}

/// The flow that a fragment belongs to.
fn followed<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    packet: &Packet<'_>,
) -> Result<Flow, Reason> {
    if flow::is_ipv6(packet, is_ours) {
        flow::parse_ipv6(packet, fragment::learn_ipv6(tables, constants, packet)?)
    } else {
        fragment::learn_ipv4(tables, constants, packet)?.flow_ipv4(packet)
    }
}

/// The flow that an error is about; a ping is answered.
fn about<T: Fragments>(
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
