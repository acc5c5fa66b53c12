//! Frames to the Ethernet addresses of virtual routers.

use weir::dataplane::VirtualRouter;
use weir_lab::program::{INGRESS, OWN_MAC, Verdict};

use crate::scene::{CLIENT_MAC, VIP, assert_passes_untouched, program, readdressed, tcp};

#[test]
fn frames_for_a_virtual_router_are_steered_while_this_node_is_its_master() {
    let mut program = program();
    let macs = program.tables.virtual_macs.clone();
    let to = |mac: [u8; 6]| readdressed(&tcp(1025, VIP, 80), mac, CLIENT_MAC);
    let (ours, other, six) =
        ([0, 0, 0x5E, 0, 1, 200], [0, 0, 0x5E, 0, 1, 201], [0, 0, 0x5E, 0, 2, 200]);
    let router = |interface, ipv4, router_id| VirtualRouter { interface, ipv4, router_id };
    macs.claim(0, INGRESS);
    for mac in [ours, other, six] {
        assert_passes_untouched(&mut program, &to(mac), "not_for_us");
    }
    macs.set(&[router(INGRESS, true, 200)]);
    assert_eq!(program.run(&to(ours)).unwrap().0, Verdict::Tx);
    let (_, by_own_mac) = program.run(&to(OWN_MAC)).unwrap();
    assert_eq!(program.run(&to(ours)).unwrap().1, by_own_mac);
    for mac in [other, six, [0, 0, 0x5E, 0, 3, 200], [0, 0, 0x5E, 1, 1, 200]] {
        assert_passes_untouched(&mut program, &to(mac), "not_for_us");
    }
    // 201 is another interface's: of no meaning here.
    macs.set(&[router(INGRESS, false, 200), router(INGRESS + 1, true, 201)]);
    assert_eq!(program.run(&to(six)).unwrap().0, Verdict::Tx);
    for mac in [ours, other] {
        assert_passes_untouched(&mut program, &to(mac), "not_for_us");
    }
    // The place got another interface, and was forgotten.
    macs.claim(0, INGRESS + 1);
    assert_passes_untouched(&mut program, &to(six), "not_for_us");
}
