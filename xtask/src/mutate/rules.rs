//! The rules of steering, and how each is left out.
//!
//! Not here are those whose absence costs memory or balance and breaks no promise: that a record
//! which says what its slot says is dropped, that a flow which closed is forgotten sooner, that a
//! record of an earlier life leads nowhere.

/// A rule, and the edit that leaves it out where `BROKEN` is true.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    /// What stands in the file, once.
    pub(super) from: &'static str,
    pub(super) to: &'static str,
}

const STEER: &str = "lb-common/src/steer.rs";
const SLOT: &str = "lb-common/src/slot.rs";
const RING: &str = "lb-userspace/src/core/ring.rs";
const SWEEP: &str = "lb-userspace/src/core/sweep.rs";

const fn rule(
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Rule {
    Rule { name, file, from, to }
}

/// In the order of the files. Several may edit the same line, one after the other.
pub(super) const RULES: [Rule; 27] = [
    // === a packet ===
    rule(
        "a slot that is not settled asks the records",
        STEER,
        "if slot.is_settled() {",
        "if slot.is_settled() || BROKEN {",
    ),
    rule(
        "a recorded flow goes where its record says",
        STEER,
        "if let Some(number) = recorded(tables, service.meta, &key, flow, slot_in_map) {",
        "let found = recorded(tables, service.meta, &key, flow, slot_in_map);\n    \
         if let (false, Some(number)) = (BROKEN, found) {",
    ),
    rule(
        "a record that was just confirmed is looked for once more",
        STEER,
        "life.lives().then_some(number)",
        "(life.lives() && !BROKEN).then_some(number)",
    ),
    rule(
        "while a slot moves, an opening goes to the owner",
        STEER,
        "Prior::Moving(prior) if !flow.flags.opens() =>",
        "Prior::Moving(prior) if !flow.flags.opens() || BROKEN =>",
    ),
    rule(
        "while a slot moves, any other packet goes to the prior",
        STEER,
        "(prior, Why::MovingPrior, Stage::Confirmed)",
        "(if BROKEN { slot.owner() } else { prior }, Why::MovingPrior, Stage::Confirmed)",
    ),
    rule(
        "while a slot moves, the prior's flows are recorded",
        STEER,
        "tables.keep(stage, &key, &record);",
        "if !(BROKEN && stage == Stage::Confirmed) { tables.keep(stage, &key, &record); }",
    ),
    rule(
        "while a slot moves, openings are recorded",
        STEER,
        "tables.keep(stage, &key, &record);",
        "if !(BROKEN && stage == Stage::HalfOpen) { tables.keep(stage, &key, &record); }",
    ),
    rule("a dead prior gets nothing", STEER, "if !life.lives() {", "if !life.lives() && !BROKEN {"),
    rule(
        "a confirmed record of a dead backend leads nowhere",
        STEER,
        "if !life.lives() || (flow.flags.opens()",
        "let spared = BROKEN && stage == Stage::Confirmed;\n    \
         if (!life.lives() && !spared) || (flow.flags.opens()",
    ),
    rule(
        "an opening leaves a confirmed record whose backend takes no new flows",
        STEER,
        "&& !life.takes_new()) {",
        "&& !life.takes_new() && !(BROKEN && stage == Stage::Confirmed)) {",
    ),
    rule(
        "that record is forgotten",
        STEER,
        "tables.forget(stage, key);",
        "if !(BROKEN && stage == Stage::Confirmed) { tables.forget(stage, key); }",
    ),
    rule(
        "a packet keeps its flow's record alive",
        STEER,
        "record.seen.store(tables.now());\n        // Another",
        "if !BROKEN { record.seen.store(tables.now()); }\n        // Another",
    ),
    rule(
        "a flow that opens anew is not closing any more",
        STEER,
        "let opens_or_closes = flow.flags.opens() || flow.flags.closes();",
        "let opens_or_closes = (flow.flags.opens() && !BROKEN) || flow.flags.closes();",
    ),
    rule(
        "a half-open record of a dead backend leads nowhere",
        STEER,
        "!life.lives() && !spared",
        "!life.lives() && !spared && !(BROKEN && stage == Stage::HalfOpen)",
    ),
    rule(
        "a packet after the opening confirms the record",
        STEER,
        "tables.keep(Stage::Confirmed, key, &confirmed);",
        "if !BROKEN { tables.keep(Stage::Confirmed, key, &confirmed); }",
    ),
    rule(
        "the confirmed record remembers the opening's backend",
        STEER,
        "let confirmed = new_record(tables, number, life, slot, flow);",
        "let number = if BROKEN { 0 } else { number };\n        \
         let confirmed = new_record(tables, number, life, slot, flow);",
    ),
    // === a slot that changes hands ===
    rule(
        "a settled slot that changes hands moves",
        SLOT,
        "Prior::Settled | Prior::Exceptions => Prior::Moving(from),",
        "Prior::Settled if BROKEN => Prior::Settled,\n            \
         Prior::Settled | Prior::Exceptions => Prior::Moving(from),",
    ),
    rule(
        "a slot with exceptions that changes hands moves",
        SLOT,
        "Prior::Settled | Prior::Exceptions => Prior::Moving(from),",
        "Prior::Exceptions if BROKEN => Prior::Exceptions,\n            \
         Prior::Settled | Prior::Exceptions => Prior::Moving(from),",
    ),
    rule(
        "a slot with exceptions whose owner died keeps them",
        SLOT,
        "Prior::Exceptions if from == owner || !worth_remembering => Prior::Exceptions,",
        "Prior::Exceptions if from == owner || !worth_remembering => {\n                \
         if BROKEN { Prior::Settled } else { Prior::Exceptions }\n            }",
    ),
    rule(
        "a slot that goes back to its prior has exceptions",
        SLOT,
        "Prior::Moving(prior) if prior == owner || !lives(prior) => Prior::Exceptions,",
        "Prior::Moving(prior) if prior == owner || !lives(prior) => {\n                \
         if BROKEN { Prior::Settled } else { Prior::Exceptions }\n            }",
    ),
    rule(
        "a moving slot that goes on keeps its first prior",
        SLOT,
        "Prior::Moving(prior) => Prior::Moving(prior),",
        "Prior::Moving(prior) => Prior::Moving(if BROKEN { from } else { prior }),",
    ),
    // === the controller ===
    rule(
        "a slot moves for an idle time-out",
        RING,
        "Prior::Moving(_) if now >= since + idle_timeout + MARGIN => Prior::Exceptions,",
        "Prior::Moving(_) if BROKEN || now >= since + idle_timeout + MARGIN => Prior::Exceptions,",
    ),
    rule(
        "a slot with exceptions waits for its records to agree",
        RING,
        "&& agree(here, slot) =>",
        "&& (BROKEN || agree(here, slot)) =>",
    ),
    rule(
        "a slot that changes its memory begins to wait anew",
        RING,
        "} else if old.prior() != slot.prior() {",
        "} else if old.prior() != slot.prior() && !(BROKEN && !old.is_settled()) {",
    ),
    rule(
        "a restart waits for a whole idle time-out again",
        RING,
        "vec![Moment::after(now); slots.len()]",
        "vec![Moment::after(if BROKEN { Duration::ZERO } else { now }); slots.len()]",
    ),
    rule(
        "a service that begins to record every flow records those that it has",
        RING,
        "(Self::EveryFlow, _) => Slot::new(owner, Prior::Moving(owner)),",
        "(Self::EveryFlow, _) if BROKEN => Slot::new(owner, Prior::Exceptions),\n            \
         (Self::EveryFlow, _) => Slot::new(owner, Prior::Moving(owner)),",
    ),
    rule(
        "a record is kept for an idle time-out",
        SWEEP,
        "now.saturating_sub(seen) > patience.saturating_add(margin)",
        "now.saturating_sub(seen) > if BROKEN { patience / 2 } else { patience.saturating_add(margin) }",
    ),
];
