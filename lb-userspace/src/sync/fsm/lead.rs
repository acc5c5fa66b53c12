//! Who leads, and what follows when that changes.

use std::{collections::BTreeSet, time::Duration};

use super::super::packet::Standing;
use super::{BEAT, JOIN_WAIT, Output, Peers, Report, Role, Session};
use crate::config::Name;

/// Both nodes have the addresses for a moment whenever they are handed over in order.
const HAND_OVER: Duration = BEAT.saturating_mul(3);
/// A peer that says nothing for this long may have said something that is on its way still.
const FRESH: Duration = BEAT.saturating_mul(3);

impl Peers {
    /// Whether peers know of flows and slots what this node does not know yet: a master of lower
    /// priority is not replaced before that is here, and clients are not called away from one.
    ///
    /// A node without the addresses lacks its leader's tables until they are here as a whole, and
    /// leads only as long as it hears of nobody who has them. One with the addresses lacks what
    /// those say whose connection is not there, or stands still.
    pub fn lacks_tables(&self, now: Duration) -> bool {
        match self.role {
            Role::Joining => true,
            Role::Follower(_) => !self.synced,
            Role::Leader if self.hello.standing.leads == Some(false) => true,
            Role::Leader => {
                let told = |session: &Session| {
                    session.peer.is_some() && !session.wanting && now < session.heard + FRESH
                };
                self.sessions.is_empty() || !self.sessions.values().all(told)
            }
        }
    }

    pub(super) fn decide(&mut self, now: Duration, outputs: &mut Vec<Output>) {
        self.find_split(now, outputs);
        let role = self.choose(now);
        if role == self.role {
            return;
        }
        self.role = role.clone();
        self.synced = false;
        self.repaired = None;
        self.differing.clear();
        match &role {
            Role::Joining => {}
            Role::Leader => {
                self.hello.standing.ready = true;
                outputs.push(Output::Report(None, Report::Leads));
            }
            Role::Follower(leader) => {
                outputs.push(Output::Report(None, Report::Follows(leader.clone())));
            }
        }
        outputs.push(Output::Role(role));
        // Behind the role, so that what comes is taken for what it is. Whatever was asked for
        // before, its answer may be on its way still.
        if let Some(leader) = self.leader_session()
            && let Some(session) = self.sessions.get_mut(&leader)
        {
            session.wanting = true;
            outputs.push(Output::Exchange(leader));
        }
        // Told at once, with the next beat.
        self.last_beat = None;
    }

    fn choose(&self, now: Duration) -> Role {
        if self.hello.standing.leads == Some(true) {
            return Role::Leader;
        }
        let peers = || self.sessions.values().filter_map(|session| session.peer.as_ref());
        let smallest = |pick: &dyn Fn(&Standing) -> bool| {
            let picked = peers().filter(|peer| pick(&peer.hello.standing));
            picked.map(|peer| &peer.hello.node).min()
        };
        if let Some(leader) = smallest(&|standing| standing.leads == Some(true)) {
            return Role::Follower(leader.clone());
        }
        let ours = &self.hello.node;
        let other = smallest(&|standing| standing.ready);
        match other {
            Some(other) if !self.hello.standing.ready || other < ours => {
                Role::Follower(other.clone())
            }
            Some(_) => Role::Leader,
            None if self.hello.standing.ready => Role::Leader,
            None if now < self.started + JOIN_WAIT => Role::Joining,
            // Nobody was here before: the smallest name of those who start together.
            None => match smallest(&|_| true) {
                Some(other) if other < ours => Role::Joining,
                _ => Role::Leader,
            },
        }
    }

    /// Who has the addresses while we have them, for longer than it takes to hand them over.
    fn find_split(&mut self, now: Duration, outputs: &mut Vec<Output>) {
        let leads = |standing: &Standing| standing.leads == Some(true);
        let peers = self.sessions.values().filter_map(|session| session.peer.as_ref());
        let peers = peers.filter(|_| leads(&self.hello.standing));
        let too = peers.filter(|peer| leads(&peer.hello.standing));
        let since = |node: &Name| self.both_lead.get(node).copied().unwrap_or(now);
        let both = too.map(|peer| (peer.hello.node.clone(), since(&peer.hello.node)));
        self.both_lead = both.collect();
        let lasts = self.both_lead.iter().filter(|(_, since)| now >= **since + HAND_OVER);
        let split: BTreeSet<Name> = lasts.map(|(node, _)| node.clone()).collect();
        for node in split.difference(&self.split) {
            outputs.push(Output::Report(Some(node.clone()), Report::Split));
        }
        for node in self.split.difference(&split) {
            outputs.push(Output::Report(Some(node.clone()), Report::SplitOver));
        }
        self.split = split;
    }
}
