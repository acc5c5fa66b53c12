//! What is passed or dropped, and under which reason it is counted.

use weir_lab::program::Verdict;

use crate::scene::{
    CLIENT, CLIENT_MAC, VIP, assert_passes_untouched, count, program, readdressed, tcp, udp,
};

#[test]
fn what_is_no_business_of_ours_passes_untouched() {
    let mut program = program();
    let good = tcp(1025, VIP, 80);

    for mac in [[0xFF; 6], [0x01, 0, 0x5E, 0, 0, 18], [0x02, 0, 0, 0, 0, 0x99]] {
        assert_passes_untouched(&mut program, &readdressed(&good, mac, CLIENT_MAC), "not_for_us");
    }
    for ether_type in [[0x08, 0x06], [0x81, 0x00], [0x88, 0xCC]] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&ether_type);
        assert_passes_untouched(&mut program, &frame, "not_ip");
    }
    assert_passes_untouched(&mut program, &tcp(1025, VIP, 81), "no_service");
    assert_passes_untouched(&mut program, &tcp(1025, [192, 0, 2, 11], 80), "no_service");
    assert_passes_untouched(&mut program, &udp(CLIENT, 1025, 80), "no_service");
    for (protocol, reason) in [(1, "icmp"), (2, "protocol"), (112, "protocol"), (132, "protocol")] {
        let mut frame = good.clone();
        frame[23] = protocol;
        assert_passes_untouched(&mut program, &frame, reason);
    }
}

#[test]
fn do_not_fragment_is_no_fragment() {
    let mut program = program();
    let mut frame = tcp(1025, VIP, 80);
    frame[20..22].copy_from_slice(&[0x40, 0x00]);
    assert_eq!(program.run(&frame).unwrap().0, Verdict::Tx);
}

#[test]
fn a_frame_cut_at_any_length_passes_untouched() {
    let mut program = program();
    for whole in [tcp(1025, VIP, 80), udp(CLIENT, 1025, 53)] {
        // Most kernels run no program on less than an Ethernet header; 5.10 does.
        for length in 0..14 {
            if let Ok((verdict, _)) = program.run(&whole[..length]) {
                assert_eq!(verdict, Verdict::Pass, "{length} bytes");
            }
        }
        for length in 14..=60.min(whole.len() - 1) {
            let frame = &whole[..length];
            assert_passes_untouched(&mut program, frame, "malformed");
        }
    }
}

#[test]
fn headers_that_contradict_the_frame_pass_untouched() {
    let mut program = program();
    let good = tcp(1025, VIP, 80);
    // Total length: none, shorter than the headers, longer than the frame.
    for total in [0u16, 20, 39, 46, 1500, u16::MAX] {
        let mut frame = good.clone();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
    // Header length below 20 bytes; a version that is not 4; options beyond the frame's end.
    for vihl in [0x40, 0x44, 0x55, 0x65, 0x05, 0x4F] {
        let mut frame = good.clone();
        frame[14] = vihl;
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
}

#[test]
fn padding_behind_a_short_packet_is_no_fault() {
    let mut program = program();
    let mut frame = tcp(1025, VIP, 80);
    frame.resize(128, 0);
    let (verdict, out) = program.run(&frame).unwrap();
    assert_eq!((verdict, out.len()), (Verdict::Tx, 128));
}

#[test]
fn ip_options_do_not_hide_the_ports() {
    let mut program = program();
    let plain = tcp(1025, VIP, 80);
    for words in 1..=10usize {
        let mut frame = plain.clone();
        frame.splice(34..34, std::iter::repeat_n(1, words * 4));
        frame[14] = 0x45 + u8::try_from(words).unwrap();
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let (verdict, out) = program.run(&frame).unwrap();
        assert_eq!(verdict, Verdict::Tx, "{words} words of options");
        assert_eq!(out[..6], program.run(&plain).unwrap().1[..6], "the same flow");
    }
}

#[test]
fn a_service_without_backends_drops_or_passes_as_configured() {
    let mut program = program();
    let frame = tcp(1025, [192, 0, 2, 30], 80);
    assert_eq!(program.run(&frame).unwrap().0, Verdict::Drop);
    assert_eq!(count(&program, "no_backend"), 1);
    assert_passes_untouched(&mut program, &tcp(1, [192, 0, 2, 31], 80), "no_backend_pass");
}
