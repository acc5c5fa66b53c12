//! What a packet costs: the program's time less that of an empty one, measured in turn with it.
//!
//! How fast a copy of the program is depends on where its code and its tables lie, by more than
//! what is to be found out; so each case is measured with several instances, in turn.

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    slot::{Prior, Slot},
    steer::Tables as _,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use weir::{config, core::Write};

use super::{
    case::{self, Case, State},
    generator::{Family, Generator, Target, Traffic},
    quantile,
    report::{Counts, Measured, Report},
};
use crate::program::{Instance, Program, Verdict, to_us};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Copies of the program.
    pub instances: usize,
    /// Rounds of each; the medians of all of them count.
    pub rounds: usize,
    /// Packets in a round.
    pub packets: u32,
    /// Of all cases those of this family, or all.
    pub family: Option<Family>,
}

/// An object under measurement, with the tables of a case.
struct Subject {
    program: Program,
    instances: Vec<(Instance, Generator)>,
    /// Net nanoseconds of each round, by instance.
    net: Vec<Vec<f64>>,
}

/// Measures every case, with an object that it is compared with if there is one. `progress` hears
/// of each case that begins.
///
/// # Errors
///
/// If the kernel refuses a program or a run, or a packet takes another way than it should.
pub fn measure(
    object: &[u8],
    baseline: Option<&[u8]>,
    effort: Effort,
    progress: impl Fn(usize, usize),
) -> Result<Report> {
    stay_on_this_cpu()?;
    let objects: Vec<&[u8]> = [object].into_iter().chain(baseline).collect();
    let mut report =
        Report { empty_ns: 0.0, results: Vec::new(), counts: Counts::default(), baseline: None };
    let mut empties = Vec::new();
    let mut cases = case::all();
    cases.retain(|case| effort.family.is_none_or(|family| case.family == family));
    for (number, case) in cases.iter().enumerate() {
        progress(number + 1, cases.len());
        let subjects = objects.iter().map(|object| Subject::new(object, case, effort));
        let mut subjects = subjects.collect::<Result<Vec<_>>>()?;
        for _ in 0..effort.rounds {
            for instance in 0..effort.instances {
                for subject in &mut subjects {
                    empties.push(subject.round(instance, case, effort.packets)?);
                }
            }
        }
        let medians: Vec<f64> = subjects.iter().map(Subject::median).collect();
        report.results.push(subjects[0].measured(case, medians.get(1).copied()));
        let mut counts = subjects.iter_mut().map(|subject| subject.program.counts());
        report.counts = counts.next().context("there is an object")??;
        report.baseline = counts.next().transpose()?;
    }
    report.empty_ns = quantile(&empties, 50);
    Ok(report)
}

/// Moving to another one costs a round its caches.
fn stay_on_this_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("ask for the CPUs")?;
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("some CPU is allowed")?).context("choose a CPU")?;
    sched_setaffinity(this, &one).context("stay on one CPU")
}

// === impl Subject ===

impl Subject {
    fn new(object: &[u8], case: &Case, effort: Effort) -> Result<Self> {
        let config = config::parse(&case.configuration(), "bench.toml")?;
        // The next run sees the frame as addressed to us, should a program not restore it.
        let program = Program::with_object(object, config, to_us)?;
        let mut instances = Vec::new();
        for _ in 0..effort.instances {
            let instance = program.instance(object)?;
            let [empty, weir] = ["empty_tx", "weir"].map(|name| instance.program(name));
            let generator = Generator::new(case.family, empty?, weir?)?;
            instances.push((instance, generator));
        }
        let mut subject = Self { program, net: vec![Vec::new(); instances.len()], instances };
        subject.prepare(case)?;
        Ok(subject)
    }

    /// Brings the slots, and what is recorded, to the case's state.
    fn prepare(&mut self, case: &Case) -> Result<()> {
        match case.state {
            // Where every flow is recorded, slots are as they should be from the beginning.
            State::Settled | State::Miss | State::Turns | State::Loads => {}
            State::Moving => set_slots(&self.program, case, from_the_next(case)),
            State::Exceptions => set_slots(&self.program, case, |_| Prior::Exceptions),
            State::Recorded => {
                set_slots(&self.program, case, from_the_next(case));
                let frame = case.confirming_frame();
                self.run(0, Target::Measured, case, case.rehearsal(), &frame, case.flows)?;
                let (_, recorded) = self.program.tables.records.count()?;
                ensure!(
                    recorded >= u64::from(case.flows) * 99 / 100,
                    "{recorded} of {} flows are recorded",
                    case.flows
                );
                set_slots(&self.program, case, |_| Prior::Exceptions);
            }
        }
        // Fills the caches, and full tables with what will be pushed out.
        let packets = if case.is_always_new() { 400_000 } else { 10_000 };
        let (traffic, frame) = (case.traffic(), case.frame());
        for instance in 0..self.instances.len() {
            self.run(instance, Target::Measured, case, traffic, &frame, packets)?;
        }
        Ok(())
    }

    /// Measures one round of an instance; returns what the empty program took.
    fn round(&mut self, instance: usize, case: &Case, packets: u32) -> Result<f64> {
        let (traffic, frame) = (case.traffic(), case.frame());
        let empty = self.run(instance, Target::Empty, case, traffic, &frame, packets)?;
        let measured = self.run(instance, Target::Measured, case, traffic, &frame, packets)?;
        self.net[instance].push(measured - empty);
        Ok(empty)
    }

    /// Runs a target, and makes sure that its packets go where they should.
    fn run(
        &self,
        instance: usize,
        target: Target,
        case: &Case,
        traffic: Traffic,
        frame: &[u8],
        packets: u32,
    ) -> Result<f64> {
        let (verdict, nanoseconds) =
            self.instances[instance].1.run(target, traffic, frame, packets)?;
        let miss = case.state == State::Miss && target == Target::Measured;
        let expected = if miss { Verdict::Pass } else { Verdict::Tx };
        let verdict = Verdict::from_action(verdict)?;
        ensure!(verdict == expected, "{case:?}: the packets' verdict is {verdict:?}");
        Ok(nanoseconds)
    }

    fn medians(&self) -> Vec<f64> {
        self.net.iter().map(|rounds| quantile(rounds, 50)).collect()
    }

    fn median(&self) -> f64 {
        quantile(&self.medians(), 50)
    }

    fn measured(&self, case: &Case, baseline_net_ns: Option<f64>) -> Measured {
        let all = self.net.concat();
        Measured {
            forward: "l2",
            family: case.family as u8,
            packet: case.packet,
            state: case.state,
            flows: if case.is_always_new() { 0 } else { case.flows },
            services: case.services,
            backends: case.backends,
            net_ns: self.median(),
            spread_ns: quantile(&all, 75) - quantile(&all, 25),
            instances_ns: self.medians(),
            baseline_net_ns,
        }
    }
}

/// Gives every slot that has an owner another memory.
pub(super) fn set_slots(program: &Program, case: &Case, prior: impl Fn(u16) -> Prior) {
    let tables = &program.tables;
    let slots = (0..program.id.limits.ring_slots).filter_map(|index| {
        let owner = tables.mapped.slot(index)?.owner();
        // Between two rings lie a few slots that are nobody's.
        (u32::from(owner) < case.services * case.backends)
            .then(|| (index, Slot::new(owner, prior(owner))))
    });
    tables.mapped.write(&Write::Slots(slots.collect()));
}

/// Has each slot move from the backend after its owner.
pub(super) fn from_the_next(case: &Case) -> impl Fn(u16) -> Prior {
    let backends = u16::try_from(case.backends).unwrap_or(u16::MAX);
    move |owner| Prior::Moving((owner + 1) % backends)
}
