//! What can happen to a pair whose first router is the preferred master.

use std::{fmt, str::FromStr, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{Lab, Pair, Router, words::by_name};

/// How long a stalled daemon stalls.
const STALL: Duration = Duration::from_secs(1);

/// The first router has the VIP and its highest priority.
const FIRST: [bool; 2] = [true, false];
/// The second has it.
const SECOND: [bool; 2] = [false, true];
/// The first, dead or silent, has never let go of it.
const BOTH: [bool; 2] = [true, true];

/// A kind of failover, planned or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL of the active daemon.
    Kill,
    /// The active host falls silent, and nothing tells of it: its port leaves the bridge.
    PowerOff,
    /// The silent host is heard again, its daemon never having let go of the VIP: two masters.
    PowerOn,
    /// The active host's cable is pulled: it loses its carrier.
    LinkDown,
    /// The active daemon is asked to leave (SIGTERM).
    Stop,
    /// The active daemon is asked to hand over, and stays.
    Switch,
    /// The preferred master returns after an orderly stop.
    Return,
    /// The active daemon stalls for a second (SIGSTOP, SIGCONT).
    StallActive,
    /// The standby daemon does.
    StallStandby,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::PowerOff,
        Self::PowerOn,
        Self::LinkDown,
        Self::Stop,
        Self::Switch,
        Self::Return,
        Self::StallActive,
        Self::StallStandby,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerOff => "power-off",
            Self::PowerOn => "power-on",
            Self::LinkDown => "link-down",
            Self::Stop => "stop",
            Self::Switch => "switch",
            Self::Return => "return",
            Self::StallActive => "stall-active",
            Self::StallStandby => "stall-standby",
        }
    }

    /// Who has the VIP before it.
    pub(super) fn before(self) -> [bool; 2] {
        match self {
            Self::PowerOn => BOTH,
            Self::Return => SECOND,
            _ => FIRST,
        }
    }

    /// Whether it is over, by who has the VIP.
    pub(super) fn is_over(self, owners: [bool; 2]) -> bool {
        match self {
            // The first does not matter: it is dead or cut off.
            Self::Kill | Self::PowerOff | Self::LinkDown => [SECOND, BOTH].contains(&owners),
            Self::Stop | Self::Switch => owners == SECOND,
            Self::PowerOn | Self::Return | Self::StallActive | Self::StallStandby => {
                owners == FIRST
            }
        }
    }

    /// Brings about what it starts from, where the first router has the VIP.
    pub(super) fn prepare(self, lab: &Lab, pair: &mut Pair) -> Result<()> {
        match self {
            Self::PowerOn => lab.power_off(pair.0[0].member().namespace().role()),
            Self::Return => pair.0[0].stop(),
            _ => Ok(()),
        }
    }

    /// Lets it happen.
    pub(super) fn happen(self, lab: &Lab, pair: &mut Pair) -> Result<()> {
        let host = pair.0[0].member().namespace().role().to_owned();
        let [first, second] = &mut pair.0;
        match self {
            Self::Kill => {
                first.kill();
                Ok(())
            }
            Self::PowerOff => lab.power_off(&host),
            Self::PowerOn => lab.power_on(&host),
            Self::LinkDown => lab.unplug(&host),
            Self::Stop => first.stop(),
            Self::Switch => first.release(),
            Self::Return => first.start(),
            Self::StallActive => stall(first.as_ref()),
            Self::StallStandby => stall(second.as_ref()),
        }
    }

    /// Makes good what it broke, so that the first router can have the VIP again.
    pub(super) fn undo(self, lab: &Lab, pair: &mut Pair) -> Result<()> {
        let host = pair.0[0].member().namespace().role().to_owned();
        let first = &mut pair.0[0];
        match self {
            Self::Kill | Self::Stop => first.start(),
            Self::PowerOff => lab.power_on(&host),
            Self::LinkDown => lab.plug(&host),
            Self::Switch => first.reclaim(),
            Self::PowerOn | Self::Return | Self::StallActive | Self::StallStandby => Ok(()),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Event {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::ALL, Self::name, text)
    }
}

fn stall(router: &dyn Router) -> Result<()> {
    router.signal(Signal::SIGSTOP)?;
    // The stall itself, not a wait for something.
    thread::sleep(STALL);
    router.signal(Signal::SIGCONT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_found_by_its_name() {
        for event in Event::ALL {
            assert_eq!(event.name().parse::<Event>().ok(), Some(event));
        }
        assert!("flood".parse::<Event>().unwrap_err().to_string().contains("power-off"));
    }

    #[test]
    fn no_event_is_over_before_it_happened_unless_the_owner_stays() {
        for event in Event::ALL {
            let stays = [Event::StallActive, Event::StallStandby].contains(&event);
            assert_eq!(event.is_over(event.before()), stays, "{event}");
        }
    }
}
