//! Turning peers' probes round, for packets that no service wanted: a settled flow's packet never
//! comes here.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns};
use lb_common::{
    echo::{self, EchoKey, NEVER, Outcome, Responder},
    packet::Packet,
};

use crate::{maps, second_chance};

/// The echo's UDP port; where it is 0, the verifier leaves all of this out.
#[unsafe(no_mangle)]
static ECHO_PORT: Global<u32> = Global::new(0);
/// The node's number.
#[unsafe(no_mangle)]
static ECHO_NODE: Global<u64> = Global::new(0);
/// The two words of the peers' key.
#[unsafe(no_mangle)]
static ECHO_KEY_LOW: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static ECHO_KEY_HIGH: Global<u64> = Global::new(0);

/// Whether the packet was a peer's probe, and is turned round.
#[inline(always)]
pub(crate) fn turns_round(packet: &Packet<'_>) -> bool {
    let (start, end) = packet.bounds();
    ECHO_PORT.load() != 0 && answers(start, end) != 0
}

/// A function of its own, so that its words take none of the registers of the packet's path.
#[inline(never)]
fn answers(start: usize, end: usize) -> u32 {
    // SAFETY: the bounds of the frame, which the caller does not touch meanwhile.
    let mut packet = unsafe { Packet::from_bounds(start, end) };
    let responder = Responder {
        port: ECHO_PORT.load() as u16,
        node: ECHO_NODE.load(),
        key: EchoKey([ECHO_KEY_LOW.load(), ECHO_KEY_HIGH.load()]),
    };
    let Some(outcome) = echo::answer(&mut packet, &responder, age) else { return 0 };
    if let Some(counter) = maps::echo_counter(outcome) {
        // SAFETY: the kernel returned this CPU's own entry, and a program is not preempted by
        // another instance of itself on the same CPU.
        unsafe { *counter += 1 };
    }
    if outcome == Outcome::Answer {
        second_chance::learn(&packet);
    }
    u32::from(outcome == Outcome::Answered)
}

/// How old the daemon's last sign of life is, in nanoseconds.
#[inline(always)]
fn age() -> u64 {
    let time = maps::heartbeat().map_or(0, |heartbeat| heartbeat.time.load());
    if time == 0 {
        return NEVER;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    now.saturating_sub(time)
}
