//! What can happen to held connections.
//!
//! Each event leaves things as they were: what it changed it changes back, and that counts as part
//! of it. The exceptions are named at [`Event::Add`] and [`Event::KillBackend`].

use std::{fmt, str::FromStr};

use anyhow::Result;

use super::scenario::{DRAINED, KILLED, RELOADED, Scenario, WEIGHED};
use crate::words::by_name;

/// Something that happens to a balancer or a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A backend joins: the last one, which stays.
    Add,
    /// A backend gets three times its share, then its old one.
    Weight,
    /// A backend takes no new flows, then does again.
    Drain,
    /// A backend that lives is taken out for good, and joins again. Its own connections may break.
    Remove,
    /// A backend's servers are killed, and stay so. Its own connections break.
    KillBackend,
    /// The killed backend returns.
    Recover,
    /// SIGHUP with the file as it is.
    ReloadSame,
    /// SIGHUP with another weight in the file, then with the old one.
    Reload,
    /// SIGKILL of the daemon, and its start some time later.
    Kill,
    /// SIGTERM of the daemon, and its start some time later.
    Restart,
    /// A restart with another copy of the eBPF object.
    Upgrade,
    /// A restart that finds tables of another layout, and fills new ones from them.
    Layout,
    /// A restart with other `[limits]`.
    Resize,
}

impl Event {
    /// All of them, in an order that needs no preparation in between.
    pub const ALL: [Self; 13] = [
        Self::Add,
        Self::Weight,
        Self::Drain,
        Self::Remove,
        Self::KillBackend,
        Self::Recover,
        Self::ReloadSame,
        Self::Reload,
        Self::Kill,
        Self::Restart,
        Self::Upgrade,
        Self::Layout,
        Self::Resize,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Weight => "weight",
            Self::Drain => "drain",
            Self::Remove => "remove",
            Self::KillBackend => "kill-backend",
            Self::Recover => "recover",
            Self::ReloadSame => "reload-same",
            Self::Reload => "reload",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Layout => "layout",
            Self::Resize => "resize",
        }
    }

    /// Brings about what the event starts from.
    pub(super) fn prepare(self, scenario: &mut Scenario<'_>) -> Result<()> {
        match self {
            Self::Recover => scenario.kill_backend(KILLED),
            _ => scenario.revive_backend(KILLED),
        }?;
        match self {
            Self::Add => scenario.remove_last(),
            Self::Remove => scenario.add_last(),
            _ => Ok(()),
        }
    }

    /// Lets it happen. Returns why not, where this `weir` has no such command.
    pub(super) fn happen(self, scenario: &mut Scenario<'_>) -> Result<Option<String>> {
        match self {
            Self::Add => scenario.add_last()?,
            Self::Weight => {
                scenario.weigh(WEIGHED, 3)?;
                scenario.weigh(WEIGHED, 1)?;
            }
            Self::Drain => {
                if let Err(refusal) = scenario.drain(DRAINED) {
                    return Ok(Some(refusal.to_string()));
                }
                scenario.enable(DRAINED)?;
            }
            Self::Remove => {
                scenario.remove_last()?;
                scenario.add_last()?;
            }
            Self::KillBackend => scenario.kill_backend(KILLED)?,
            Self::Recover => scenario.revive_backend(KILLED)?,
            Self::ReloadSame => scenario.reload(|service| service)?,
            Self::Reload => {
                scenario.reload(|service| service.weight(RELOADED, 2))?;
                scenario.reload(|service| service)?;
            }
            Self::Kill => scenario.kill()?,
            Self::Restart => scenario.restart()?,
            Self::Upgrade => scenario.upgrade()?,
            Self::Layout => scenario.change_layout()?,
            Self::Resize => scenario.resize()?,
        }
        Ok(None)
    }

    /// Whose connections may break by it.
    pub(super) fn leaves<'a>(self, scenario: &Scenario<'a>) -> Option<&'a str> {
        match self {
            Self::KillBackend => Some(KILLED),
            Self::Remove => Some(scenario.last()),
            _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_found_by_its_name() {
        for event in Event::ALL {
            assert_eq!(event.name().parse::<Event>().ok(), Some(event));
        }
        assert!("earthquake".parse::<Event>().unwrap_err().to_string().contains("kill-backend"));
    }
}
