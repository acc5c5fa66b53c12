//! What can happen to held connections that reach their backends through either of two balancers.
//!
//! In each the preferred master has lost the VIP and has it again at the end, with the same tables
//! as the other, and what was changed meanwhile is changed back.

use std::{fmt, str::FromStr};

use anyhow::Result;

use super::{DRAINED, Fault, KILLED, PairScenario, WEIGHED};
use crate::words::by_name;

/// Something that happens to a pair of balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairEvent {
    /// SIGKILL of the active daemon, and its start some time later.
    Failover,
    /// The active host falls silent without losing its carrier, and is heard again.
    PowerOff,
    /// The active daemon leaves in order (SIGTERM), and starts again.
    Stop,
    /// The active daemon hands over by command, and takes back.
    Switch,
    /// The preferred master returns after an orderly stop.
    Return,
    /// The active daemon is killed while a backend drains.
    Drain,
    /// It is killed while slots move to a backend that has returned.
    Recover,
    /// It is killed while slots move to a backend that got more weight.
    Weight,
    /// The VIP changes hands twenty times, for each of the reasons above in turn.
    Twenty,
    /// The balancers are cut off from each other, both have the VIP, and connections wander between
    /// them. Then a backend is added and another drained, on both sides.
    Split,
}

impl PairEvent {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Failover,
        Self::PowerOff,
        Self::Stop,
        Self::Switch,
        Self::Return,
        Self::Drain,
        Self::Recover,
        Self::Weight,
        Self::Twenty,
        Self::Split,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::PowerOff => "failover-power-off",
            Self::Stop => "failover-stop",
            Self::Switch => "failover-switch",
            Self::Return => "failover-return",
            Self::Drain => "failover-drain",
            Self::Recover => "failover-recover",
            Self::Weight => "failover-weight",
            Self::Twenty => "failovers",
            Self::Split => "split",
        }
    }

    /// Brings about what the event starts from.
    pub(super) fn prepare(self, scenario: &mut PairScenario<'_>) -> Result<()> {
        match self {
            Self::Return => scenario.fail(Fault::Stop),
            Self::Recover => scenario.kill_backend(KILLED),
            _ => Ok(()),
        }
    }

    /// Lets it happen.
    pub(super) fn happen(self, scenario: &mut PairScenario<'_>) -> Result<()> {
        match self {
            Self::Failover => scenario.fail_over(Fault::Kill),
            Self::PowerOff => scenario.fail_over(Fault::PowerOff),
            Self::Stop => scenario.fail_over(Fault::Stop),
            Self::Switch => scenario.fail_over(Fault::Switch),
            Self::Return => scenario.mend(Fault::Stop),
            Self::Drain => {
                scenario.begin(&["backend", "drain", super::SERVICE, DRAINED])?;
                scenario.fail(Fault::Kill)?;
                scenario.rest(1)?;
                scenario.mend(Fault::Kill)?;
                scenario.enable(DRAINED)
            }
            Self::Recover => {
                scenario.begin_recovery(KILLED)?;
                scenario.fail(Fault::Kill)?;
                scenario.rest(1)?;
                scenario.mend(Fault::Kill)
            }
            Self::Weight => {
                scenario.begin(&["backend", "set", super::SERVICE, WEIGHED, "--weight", "3"])?;
                scenario.fail(Fault::Kill)?;
                scenario.rest(1)?;
                scenario.mend(Fault::Kill)?;
                scenario.begin(&["backend", "set", super::SERVICE, WEIGHED, "--weight", "1"])?;
                scenario.rest(0)
            }
            Self::Twenty => {
                for fault in Fault::ALL.into_iter().cycle().take(10) {
                    scenario.fail(fault)?;
                    scenario.mend(fault)?;
                }
                scenario.rest(0)
            }
            Self::Split => scenario.split(),
        }
    }
}

impl fmt::Display for PairEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PairEvent {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::ALL, Self::name, text)
    }
}
