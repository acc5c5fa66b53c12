//! What the settled path does without, counted in the object itself: this needs no kernel, and no
//! machine's noise touches it.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use aya_obj::{Object, generated::bpf_insn};
use weir_lab::program::object;

/// `BPF_FUNC_map_lookup_elem`
const LOOK_UP: i32 = 1;
/// `enum bpf_map_type`: those whose look-ups the verifier turns into an addition.
const ARRAY: u32 = 2;
const PER_CPU_ARRAY: u32 = 6;
/// `XDP_TX` of `enum xdp_action`
const XDP_TX: i32 = 3;

/// A program's instructions, with the map that each look-up asks.
struct Code {
    instructions: Vec<bpf_insn>,
    /// The type of each map, by the number that stands for it in the instructions.
    map_types: Vec<u32>,
}

#[test]
fn a_packet_is_sent_back_without_a_helper_call_or_a_look_up_in_a_hash_table() {
    let code = Code::of("weir");
    let calls = code.calls();
    assert!(calls.values().any(|call| *call == Call::Hash), "the records are asked somewhere");
    assert!(calls.values().any(|call| *call == Call::Helper), "redirection is a helper's work");
    let allowed = |at: usize| matches!(calls.get(&at), None | Some(Call::Array));
    assert!(code.reaches_tx(allowed), "every way to XDP_TX meets a call");
    // And what is in the way of all of them can be seen to be: the test would notice.
    assert!(!code.reaches_tx(|at| !calls.contains_key(&at)), "no table is asked at all");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// A look-up that the verifier inlines.
    Array,
    /// Another map's.
    Hash,
    /// Anything else.
    Helper,
}

impl Code {
    fn of(program: &str) -> Self {
        let mut object = Object::parse(&object().unwrap()).unwrap();
        let maps = object.maps.clone();
        let names: Vec<&String> = maps.keys().collect();
        let numbered = (0..).zip(&names).map(|(fd, name)| (name.as_str(), fd, &maps[*name]));
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(numbered, &text).unwrap();
        object.relocate_calls(&text).unwrap();
        let key = object.programs[program].function_key();
        let instructions = object.functions[&key].instructions.clone();
        Self { instructions, map_types: names.iter().map(|name| maps[*name].map_type()).collect() }
    }

    /// Every call, by its place. The map stands in register 1, which is loaded shortly before.
    fn calls(&self) -> BTreeMap<usize, Call> {
        const CALL: u8 = 0x85;
        let calls = self.instructions.iter().enumerate().filter(|(_, i)| i.code == CALL);
        let kind = |at: usize, call: &bpf_insn| {
            if call.src_reg() != 0 || call.imm != LOOK_UP {
                return Call::Helper;
            }
            match self.map_before(at) {
                ARRAY | PER_CPU_ARRAY => Call::Array,
                _ => Call::Hash,
            }
        };
        calls.map(|(at, call)| (at, kind(at, call))).collect()
    }

    fn map_before(&self, at: usize) -> u32 {
        const WIDE: u8 = 0x18;
        let into_first = |i: &&bpf_insn| i.code == WIDE && i.dst_reg() == 1 && i.src_reg() == 1;
        let load = self.instructions[..at].iter().rev().find(into_first).unwrap();
        self.map_types[usize::try_from(load.imm).unwrap()]
    }

    /// Whether allowed instructions lead from the first one to the end, with `XDP_TX` as verdict.
    fn reaches_tx(&self, allowed: impl Fn(usize) -> bool) -> bool {
        // With the verdict that was set last: constants alone matter.
        let mut waiting = VecDeque::from([(0_usize, None)]);
        let mut met = BTreeSet::new();
        while let Some((at, verdict)) = waiting.pop_front() {
            if !allowed(at) || !met.insert((at, verdict)) {
                continue;
            }
            let instruction = &self.instructions[at];
            let class = instruction.code & 0x07;
            let jumps = matches!(class, 0x05 | 0x06);
            let target = |offset: isize| (at + 1).checked_add_signed(offset).unwrap();
            match instruction.code {
                0x95 if verdict == Some(XDP_TX) => return true,
                0x95 => {}
                0x05 => waiting.push_back((target(instruction.off.into()), verdict)),
                0x06 => {
                    waiting.push_back((target(isize::try_from(instruction.imm).unwrap()), verdict));
                }
                // A wide load takes two places.
                0x18 => waiting.push_back((at + 2, verdict)),
                0x85 => waiting.push_back((at + 1, None)),
                _ if jumps => {
                    waiting.push_back((target(instruction.off.into()), verdict));
                    waiting.push_back((at + 1, verdict));
                }
                // r0 = constant
                0xb7 | 0xb4 if instruction.dst_reg() == 0 => {
                    waiting.push_back((at + 1, Some(instruction.imm)));
                }
                // Arithmetic and loads into r0, the verdict's register.
                _ if instruction.dst_reg() == 0 && !matches!(class, 0x02 | 0x03) => {
                    waiting.push_back((at + 1, None));
                }
                _ => waiting.push_back((at + 1, verdict)),
            }
        }
        false
    }
}
