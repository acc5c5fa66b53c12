//! Flows that a peer tells of, and what is recorded here already.

use weir::{core::KernelFlow, dataplane::kernel_seconds, sync::packet::FlowStage};
use weir_lab::program::Program;

use crate::scene::{program, reached, syn, tcp};

/// The VIP of a service that records every flow.
const RECORDED: [u8; 4] = [192, 0, 2, 40];

/// Two flows between open connections to different backends: the first, as it is recorded, and
/// where the second leads.
fn two_flows(program: &mut Program) -> (KernelFlow, u32) {
    for port in [2000, 2001] {
        let backend = reached(program, &syn(port, RECORDED, 80));
        assert_eq!(reached(program, &tcp(port, RECORDED, 80)), backend);
    }
    let all = program.tables.records.dump().unwrap();
    let [first, second] = all[..] else { panic!("{all:?}") };
    assert_ne!(first.backend, second.backend);
    (first, second.backend)
}

/// The record of a flow after a peer has told of it, and whether that was news.
fn told(program: &Program, flow: KernelFlow) -> (KernelFlow, bool) {
    let mut news = vec![flow];
    let now = kernel_seconds().unwrap();
    program.tables.records.install(&mut news, now).unwrap();
    let all = program.tables.records.dump().unwrap();
    let here = all.into_iter().find(|each| each.key == flow.key);
    (here.expect("the flow is still recorded"), news == [flow])
}

#[test]
fn what_a_peer_saw_long_ago_leaves_a_flow_in_use_as_it_is() {
    let mut program = program();
    let (flow, elsewhere) = two_flows(&mut program);
    let seen = flow.seen - 60;
    for stage in [FlowStage::Open, FlowStage::Closing, FlowStage::Opening] {
        let old = KernelFlow { backend: elsewhere, seen, stage, ..flow };
        assert_eq!(told(&program, old), (flow, false), "{stage:?}");
    }
    // As the one node saw it open, and the other its next packet.
    let opening = KernelFlow { stage: FlowStage::Opening, ..flow };
    assert_eq!(told(&program, opening), (flow, false));
}

#[test]
fn what_a_peer_saw_later_holds() {
    let mut program = program();
    let (flow, elsewhere) = two_flows(&mut program);
    let later = KernelFlow { backend: elsewhere, seen: flow.seen + 1, ..flow };
    assert_eq!(told(&program, later), (later, true));
    let anew = KernelFlow { seen: flow.seen + 2, stage: FlowStage::Opening, ..flow };
    assert_eq!(told(&program, anew), (anew, true), "the ports were used again");
}
