//! The liveness echo in the kernel: a probe in, its answer out, and nothing for strangers.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use etherparse::PacketBuilder;
use lb_common::echo::{EchoKey, Message, NEVER, Outcome};
use weir::dataplane::{TablesId, kernel_nanoseconds};
use weir_lab::program::{ECHO, OWN_MAC, Runner, SMALL, Verdict};

const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xB2];
const PEER: [u8; 4] = [192, 0, 2, 2];
const OWN: [u8; 4] = [192, 0, 2, 1];
const PROBE: Message = Message { answer: false, sender: 7, nonce: 0xFACE_CAFE, age: 0 };

/// Where the parts of a frame begin (RFC 791, RFC 768).
const IP: usize = 14;
const UDP: usize = IP + 20;
const MESSAGE: usize = UDP + 8;

fn runner() -> Runner {
    Runner::new(TablesId::new(SMALL, [1, 2])).expect("the kernel takes the program")
}

/// What the peer sends.
fn probe() -> Vec<u8> {
    frame(PEER_MAC, OWN_MAC, PEER, OWN, &PROBE.to_bytes(ECHO.key, PEER, OWN))
}

fn frame(
    source_mac: [u8; 6],
    mac: [u8; 6],
    source: [u8; 4],
    destination: [u8; 4],
    message: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(source_mac, mac)
        .ipv4(source, destination, 255)
        .udp(ECHO.port, ECHO.port);
    let mut frame = Vec::new();
    builder.write(&mut frame, message).unwrap();
    frame
}

fn count(runner: &Runner, outcome: Outcome) -> u64 {
    let counts = runner.tables.counters.echo();
    counts.iter().find(|count| count.outcome == outcome).expect("a known outcome").packets
}

#[track_caller]
fn passes(runner: &mut Runner, frame: &[u8], outcome: Outcome) {
    let before = count(runner, outcome);
    assert_eq!(runner.run(frame).unwrap(), (Verdict::Pass, frame.to_vec()), "{outcome:?}");
    assert_eq!(count(runner, outcome), before + 1, "counted as {outcome:?}");
    assert_eq!(count(runner, Outcome::Answered), 0);
}

#[test]
fn a_probe_comes_back_as_the_same_frame_the_other_way_round() {
    let mut runner = runner();
    let (verdict, answer) = runner.run(&probe()).unwrap();
    let said = Message { answer: true, sender: ECHO.node, nonce: PROBE.nonce, age: NEVER };
    let mut expected = frame(OWN_MAC, PEER_MAC, OWN, PEER, &said.to_bytes(ECHO.key, OWN, PEER));
    // No checksum (RFC 768).
    expected[UDP + 6..MESSAGE].fill(0);
    assert_eq!((verdict, &answer), (Verdict::Tx, &expected), "of a daemon that never lived");
    assert_eq!(count(&runner, Outcome::Answered), 1);
}

#[test]
fn an_answer_tells_how_long_ago_the_daemon_gave_a_sign_of_life() {
    const SECOND: u64 = 1_000_000_000;
    let mut runner = runner();
    let mut age = |beat: u64| {
        runner.tables.heart.set(beat);
        let (_, answer) = runner.run(&probe()).unwrap();
        Message::from_bytes(&answer[MESSAGE..], ECHO.key, OWN, PEER).unwrap().age
    };
    let before = kernel_nanoseconds();
    let stale = age(before - 5 * SECOND);
    let most = kernel_nanoseconds() - before + 5 * SECOND;
    assert!((5 * SECOND..=most).contains(&stale), "{stale} is not within 5 s and {most}");
    // The clock of another CPU may be a moment ahead.
    assert_eq!(age(kernel_nanoseconds() + 60 * SECOND), 0);
}

#[test]
fn who_has_not_the_key_gets_no_answer() {
    let mut runner = runner();
    let strange = PROBE.to_bytes(EchoKey([1, 2]), PEER, OWN);
    passes(&mut runner, &frame(PEER_MAC, OWN_MAC, PEER, OWN, &strange), Outcome::Forged);
    // Sent on in the name of another, who would get the answer.
    let mut moved = probe();
    moved[IP + 15] ^= 1;
    passes(&mut runner, &moved, Outcome::Forged);
    for byte in MESSAGE..probe().len() {
        let mut other = probe();
        other[byte] ^= 0x10;
        passes(&mut runner, &other, Outcome::Forged);
    }
}

#[test]
fn an_answer_is_the_daemons_and_is_not_answered() {
    let mut runner = runner();
    let answer = Message { answer: true, ..PROBE }.to_bytes(ECHO.key, PEER, OWN);
    passes(&mut runner, &frame(PEER_MAC, OWN_MAC, PEER, OWN, &answer), Outcome::Answer);
}

#[test]
fn a_node_does_not_answer_itself_in_its_peers_name() {
    let mut runner = runner();
    let own = Message { sender: ECHO.node, ..PROBE }.to_bytes(ECHO.key, OWN, PEER);
    passes(&mut runner, &frame(PEER_MAC, OWN_MAC, OWN, PEER, &own), Outcome::Own);
}

#[test]
fn only_the_exact_form_is_answered() {
    let mut runner = runner();
    let mut routed = probe();
    routed[IP + 8] = 254;
    passes(&mut runner, &routed, Outcome::Malformed);
    let mut long = probe();
    long.push(0);
    passes(&mut runner, &long, Outcome::Malformed);
    let mut claims_more = probe();
    claims_more[UDP + 5] += 1;
    passes(&mut runner, &claims_more, Outcome::Malformed);

    let counted = |runner: &Runner| Outcome::ALL.map(|outcome| count(runner, outcome));
    let before = counted(&runner);
    for (byte, value) in [(UDP + 3, 0), (0, 0x04), (12, 0x86), (IP + 9, 6), (IP, 0x46)] {
        let mut other = probe();
        other[byte] = value;
        assert_eq!(runner.run(&other).unwrap(), (Verdict::Pass, other), "byte {byte}");
    }
    let short = &probe()[..probe().len() - 1];
    assert_eq!(runner.run(short).unwrap(), (Verdict::Pass, short.to_vec()));
    assert_eq!(counted(&runner), before, "not for the echo at all");
}
