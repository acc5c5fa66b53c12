//! What goes into a virtual router and what comes out.

use std::{fmt, net::IpAddr, time::Duration};

use super::tables::TABLES_WAIT;
use crate::vrrp::{
    echo::Silence,
    packet::{Advert, Version},
};

/// What a virtual router is. `Fault` is what the RFCs call Initialize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes no part: something that it needs is missing.
    Fault,
    /// Watches the master.
    Backup,
    /// Has the addresses.
    Master,
}

/// How a virtual router behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The version, which decides on the skew and on whether intervals are learned.
    pub version: Version,
    /// The priority, tracked conditions taken into account: 1 to 255.
    pub priority: u8,
    /// Time between our adverts.
    pub interval: Duration,
    /// Whether to replace a master of lower priority.
    pub preempt: bool,
    /// How long a master of lower priority is left alone.
    pub preempt_delay: Duration,
    /// The address that our adverts come from, which decides between equal priorities.
    pub own: IpAddr,
    /// With witnesses: how long a master keeps the addresses without a sign of a peer or a witness.
    pub patience: Option<Duration>,
    /// Whether other instances move with this one: it then waits for [`super::Fsm::follow`].
    pub grouped: bool,
    /// Whether other routers know of flows and slots what this one does not know yet.
    pub lacks_tables: bool,
}

/// Another router that advertised itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where its adverts come from.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
}

/// What happens to a virtual router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// All that it needs is there.
    Start,
    /// Something that it needs is missing: the reason.
    Stop(String),
    /// A valid advert.
    Advert(IpAddr, &'a Advert),
    /// Time has passed; asked for by [`super::Fsm::deadline`], harmless at any other time.
    Timer,
    /// The host of the master no longer answers probes.
    Silent(Silence),
    /// It does so again.
    Answers,
    /// A witness, or another router's host, has answered what was sent to it at this time.
    Answered(Duration),
    /// Another router has said something at this time, other than by adverts.
    Spoke(Duration),
    /// We ourselves come this much later than we meant to.
    Stalled(Duration),
    /// So many packets for the addresses have arrived since this was last told, about a second ago.
    Arrived(u64),
    /// The daemon stops: leave in order, then take no part.
    Leave,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send an advert with this priority.
    Send(u8),
    /// Put the addresses on and announce them.
    Take,
    /// Take the addresses off.
    Withdraw,
    /// The state is another.
    Changed {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// What led to it.
        why: Why,
    },
    /// Nobody took the addresses over that were to be released: they are kept.
    Kept,
    /// This master of lower priority is let be until its tables are here.
    Awaits(Peer),
    /// Announce the addresses anew: another router had them as well.
    Announce,
    /// Ask the witnesses now: the master is gone, or we are cut off.
    Ask,
    /// Neither a peer nor a witness answers: the addresses are not taken.
    CutOff,
    /// Two routers have the addresses.
    Split(Split),
    /// This no longer shows.
    SplitOver(Split),
}

/// What shows that two routers have the addresses (split brain).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// This router advertises itself, though we do and go first.
    WithUs(Peer),
    /// The second router advertises itself, though the first does and goes before it.
    Others(Peer, Peer),
    /// Packets for the addresses arrive here, though another router has them: this one, if known.
    Packets(Option<IpAddr>),
}

/// What led to a change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// All that is needed is there.
    Started,
    /// It owns the addresses (priority 255).
    Owner,
    /// The master, if one was known, was silent for this long.
    Silence(Option<IpAddr>, Duration),
    /// The master's host has answered no probe for this long.
    Unanswered(IpAddr, Duration),
    /// The master said that it leaves.
    Left(IpAddr),
    /// The master has a lower priority.
    Preempts(Peer),
    /// The same, and its tables did not come in time.
    PreemptsWithout(Peer),
    /// Another master has a higher priority, or the same and the higher address.
    Outranked(Peer),
    /// The addresses were released, and this router took them.
    TakenOver(Peer),
    /// `weir vrrp preempt`
    Asked,
    /// The other instances of its group moved.
    Group,
    /// Something that it needs is missing.
    Missing(String),
    /// The daemon stops.
    Stopped,
    /// Neither a peer nor a witness is to be seen.
    CutOff,
}

impl Why {
    /// The silent router that was replaced, if this is why.
    pub const fn silent_peer(&self) -> Option<IpAddr> {
        match self {
            Self::Silence(peer, _) => *peer,
            Self::Unanswered(peer, _) => Some(*peer),
            _ => None,
        }
    }
}

/// Why a wish was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It takes no part at the moment.
    #[error("it takes no part at the moment: {0}")]
    Fault(String),
    /// It would lose the addresses to the master's next advert.
    #[error(
        "the master {} has priority {}, ours is {own}: run `weir vrrp release` there instead",
        master.address, master.priority
    )]
    Outranked {
        /// The master.
        master: Peer,
        /// Our priority.
        own: u8,
    },
    /// Only a master can release anything.
    #[error("it is not the master")]
    NotMaster,
}

impl State {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Fault, Self::Backup, Self::Master];

    /// Its name in `status` and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Peer {
    /// Whether it is to be the master of the two. Addresses compare as unsigned numbers.
    pub(super) fn outranks(self, other: Self) -> bool {
        (self.priority, self.address) > (other.priority, other.address)
    }
}

impl Split {
    /// Its name in `status` and metrics.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::WithUs(_) | Self::Others(..) => "adverts",
            Self::Packets(_) => "packets",
        }
    }

    /// The router that has the addresses beside the rightful master.
    pub const fn other(self) -> Option<IpAddr> {
        match self {
            Self::WithUs(peer) | Self::Others(_, peer) => Some(peer.address),
            Self::Packets(master) => master,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (priority {})", self.address, self.priority)
    }
}

/// One short sentence for people.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("ready"),
            Self::Owner => f.write_str("owner of the addresses"),
            Self::Silence(_, time) => {
                write!(f, "no advert of a master for {:.1} ms", time.as_secs_f64() * 1000.0)
            }
            Self::Unanswered(address, time) => {
                let time = time.as_secs_f64() * 1000.0;
                write!(f, "the host of {address} has answered no probe for {time:.1} ms")
            }
            Self::Left(address) => write!(f, "{address} leaves"),
            Self::Preempts(peer) => write!(f, "preempts {peer}"),
            Self::PreemptsWithout(peer) => {
                write!(f, "preempts {peer}, whose tables did not come in {TABLES_WAIT:?}")
            }
            Self::Outranked(peer) => write!(f, "{peer} goes first"),
            Self::TakenOver(peer) => write!(f, "{peer} took over"),
            Self::Asked => f.write_str("asked for by command"),
            Self::Group => f.write_str("follows its sync group"),
            Self::Missing(what) => f.write_str(what),
            Self::Stopped => f.write_str("weir stops"),
            Self::CutOff => f.write_str("cut off: neither a peer nor a witness is to be seen"),
        }
    }
}

/// One short sentence for people.
impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithUs(peer) => {
                write!(f, "{peer} advertises itself as master too")
            }
            Self::Others(first, second) => {
                write!(f, "{first} and {second} advertise themselves as masters")
            }
            Self::Packets(Some(master)) => {
                write!(f, "packets for the addresses arrive here, though {master} is the master")
            }
            Self::Packets(None) => {
                f.write_str("packets for the addresses arrive here, though this is a backup")
            }
        }
    }
}
