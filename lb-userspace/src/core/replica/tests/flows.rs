//! What nodes tell each other of flows.

use lb_common::{
    layout::{FlowKey, FlowRecord},
    slot::{Prior, Slot},
};

use super::{Node, id, name, pair, tell};
use crate::{
    core::{KernelFlow, without_outrun_openings},
    sync::packet::{FlowStage, Message},
};

/// A flow with backend `b`, seen at 990, on a slot of the node.
fn flow_with_b(node: &Node, position: u32) -> KernelFlow {
    let service = &node.core.services[&name("web")];
    let backend = &service.backends[&name("b")];
    KernelFlow {
        key: FlowKey::from_parts([0x0A00_0001, 0], 0x5000_1234, service.index),
        backend: FlowRecord::backend_word(backend.number, backend.life),
        seen: 990,
        slot: service.ring.span().base + position,
        stage: FlowStage::Open,
    }
}

#[test]
fn flows_arrive_with_the_same_backend_under_other_numbers() {
    let (leader, follower) = pair();
    let (flow, expected) = (flow_with_b(&leader, 17), flow_with_b(&follower, 17));
    assert_ne!(flow.number(), expected.number());
    let said = leader.core.say_flows(&[flow], 1000);
    let [Message::Flows(said)] = &said[..] else { panic!("{said:?}") };
    let heard = follower.core.understand_flows(said, 5000);
    assert_eq!(heard, [KernelFlow { seen: 4990, ..expected }]);
}

#[test]
fn flows_of_a_backend_that_died_here_are_left_out() {
    let (mut leader, mut follower) = pair();
    let said = leader.core.say_flows(&[flow_with_b(&leader, 0)], 990);
    leader.check(&id("b"), false);
    tell(&mut leader, &mut follower);
    let [Message::Flows(said)] = &said[..] else { panic!("{said:?}") };
    assert!(follower.core.understand_flows(said, 990).is_empty());
}

#[test]
fn flows_that_the_next_sweep_will_drop_are_not_told() {
    let (node, _) = pair();
    let flow = flow_with_b(&node, 0);
    let service = &node.core.services[&name("web")];
    let idle = node.core.swept_as(service).idle_seconds;
    assert_eq!(node.core.say_flows(&[flow], 990 + idle).len(), 1);
    assert!(node.core.say_flows(&[flow], 990 + idle + 10).is_empty());
}

#[test]
fn an_opening_is_left_out_only_where_its_next_packet_follows() {
    let (node, _) = pair();
    let flow = |port: u32, stage| KernelFlow {
        key: FlowKey::from_parts([0x0A00_0001, 0], port, 0),
        stage,
        ..flow_with_b(&node, 0)
    };
    let all = [
        flow(1, FlowStage::Opening),
        flow(2, FlowStage::Open),
        flow(1, FlowStage::Open),
        flow(2, FlowStage::Forgotten),
        flow(2, FlowStage::Opening),
        flow(3, FlowStage::Opening),
        flow(3, FlowStage::Closing),
    ];
    let mut left = all.to_vec();
    without_outrun_openings(&mut left);
    assert_eq!(left, [all[1], all[2], all[3], all[4], all[6]]);
}

#[test]
fn a_leader_remembers_flows_that_its_settled_slots_would_send_elsewhere() {
    let (mut leader, mut follower) = pair();
    let slots = || leader.core.services[&name("web")].ring.slots().to_vec();
    let owner = |node: &Node, position: usize| {
        let service = &node.core.services[&name("web")];
        let slot = service.ring.slots()[position];
        let mut all = service.backends.values();
        all.find(|backend| backend.number == slot.owner()).unwrap().spec.name.clone()
    };
    let before = slots();
    // For each backend a flow on a slot of another, and one on a slot of its own.
    let of = |wanted: bool| (0..before.len()).find(|p| (owner(&leader, *p) == name("b")) == wanted);
    let (own, foreign) = (of(true).unwrap(), of(false).unwrap());
    let flow = |position: usize| flow_with_b(&follower, u32::try_from(position).unwrap());
    let flows = [flow(own), flow(foreign)];
    let said = follower.core.say_flows(&flows, 1000);
    let [Message::Flows(said)] = &said[..] else { panic!("{said:?}") };
    let heard = leader.core.understand_flows(said, 1000);
    let now = leader.now();
    leader.core.remember_flows(&heard, now);
    leader.settle();
    let after = leader.core.services[&name("web")].ring.slots().to_vec();
    let differ: Vec<usize> = (0..after.len()).filter(|p| before[*p] != after[*p]).collect();
    assert_eq!(differ, [foreign]);
    assert_eq!(after[foreign], Slot::new(before[foreign].owner(), Prior::Exceptions));
    tell(&mut leader, &mut follower);
    assert_eq!(leader.digest(), follower.digest(), "the follower's slot remembers as well");
    // It is the leader's to decide.
    let heard = follower.core.understand_flows(said, 1000);
    follower.core.remember_flows(&heard, now);
    assert_eq!(leader.digest(), follower.digest());
}
