//! The answer of `weir plan` as text.

use std::fmt::Write as _;

use super::count;
use crate::{config::Name, core::Plan};

/// What would be done, what would move, and what would become of the connections.
pub(super) fn text(plan: &Plan) -> String {
    let mut out = format!("would say: {}\n", plan.message);
    let share = f64::from(plan.slots_moved) * 100.0 / f64::from(plan.slots.max(1));
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "would move {} of {} slots ({share:.1} %), with {}",
        plan.slots_moved,
        plan.slots,
        flows(plan.recorded_flows)
    );
    for a_move in &plan.moves {
        let (from, to) = (who(a_move.from.as_ref()), who(a_move.to.as_ref()));
        let flows = flows(a_move.recorded_flows);
        let _ = writeln!(out, "  {from} → {to}: {} slots, {flows}", a_move.slots);
    }
    if plan.breaks.is_empty() {
        out.push_str("no connection would break\n");
    } else {
        let names: Vec<&str> = plan.breaks.iter().map(Name::as_str).collect();
        let _ = writeln!(out, "the connections of {} would break", names.join(", "));
    }
    for note in &plan.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn flows(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "recorded flow")
}

fn who(name: Option<&Name>) -> &str {
    name.map_or("nobody", Name::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Move;

    #[test]
    fn a_plan_says_what_moves_and_what_breaks() {
        let name = |text: &str| Name::new(text).expect("a name");
        let mut plan = Plan {
            message: "web/a is in maintenance until `weir backend enable`".to_owned(),
            service: name("web"),
            slots: 1000,
            slots_moved: 250,
            recorded_flows: 1,
            moves: vec![Move { from: Some(name("a")), to: None, slots: 250, recorded_flows: 1 }],
            breaks: vec![name("a")],
            notes: vec!["in steps".to_owned()],
        };
        assert_eq!(
            text(&plan),
            "would say: web/a is in maintenance until `weir backend enable`\n\
             would move 250 of 1000 slots (25.0 %), with 1 recorded flow\n  \
             a → nobody: 250 slots, 1 recorded flow\n\
             the connections of a would break\n\
             note: in steps\n"
        );
        plan.breaks.clear();
        assert!(text(&plan).contains("no connection would break\n"));
    }
}
