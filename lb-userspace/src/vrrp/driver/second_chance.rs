//! Who is asked about flows that are not known here: the master that was.

use super::{Driver, hosts::v4};
use crate::vrrp::{
    echo::Liveness,
    fsm::State,
    second_chance::{AHEAD, SecondChance},
};

impl Driver {
    /// Addresses are about to be taken over.
    pub(super) fn give_second_chance(&mut self) {
        self.second_chance = Some(SecondChance::new(self.now()));
        self.hand_on();
    }

    /// Whether the master that was is out of sight, so that it cannot be asked about flows either.
    pub(super) fn cannot_ask(&self) -> bool {
        let hosts = self.hosts.as_ref().zip(self.master_before);
        hosts.is_some_and(|(hosts, host)| hosts.liveness(host) == Liveness::Silent)
    }

    /// Has the program know who would be asked, and ask as long as there is reason to.
    pub(super) fn hand_on(&mut self) {
        let Some(hosts) = &self.hosts else { return };
        let mut masters = self.running.iter().filter_map(|each| each.instance.fsm.other_master());
        if let Some(address) = masters.find_map(|peer| v4(peer.address)) {
            self.master_before = Some(address);
            hosts.predecessor().is(address);
        }
        let Some(chance) = &mut self.second_chance else { return };
        let liveness = self.master_before.map(|host| hosts.liveness(host)).unwrap_or_default();
        let lacks_tables = self.facts.daemon.lacks_tables;
        let mut states = self.running.iter().map(|each| each.instance.fsm.state());
        let is_master = states.any(|state| state == State::Master);
        let lasts = is_master && chance.lasts(liveness, lacks_tables, self.clock.now().monotonic);
        if lasts && liveness.forwards() {
            hosts.predecessor().hand_on_for(AHEAD);
        } else {
            hosts.predecessor().keep();
        }
        if !lasts {
            self.second_chance = None;
        }
    }
}
