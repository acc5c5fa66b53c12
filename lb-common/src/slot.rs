//! A ring slot: who gets new flows, what there is to remember of who had them before, and how it
//! changes hands. See the table in `steer` for what packets make of it.

/// A slot as the one 32-bit word that the kernel reads: the owner's backend number (or
/// [`Slot::NONE`]) in the low half, the prior in the high half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u32);

/// What a slot remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// Nothing: every flow belongs to the owner, and no table of flows is read.
    Settled,
    /// The slot changed hands less than one idle time-out ago: flows that are not recorded belong
    /// to this backend, unless they open now.
    Moving(u16),
    /// The move is over; some flows live on elsewhere and are recorded.
    Exceptions,
}

impl Slot {
    /// The owner of a slot of a service without backends.
    pub const NONE: u16 = 0xFFFD;
    const EXCEPTIONS: u16 = 0xFFFE;
    const SETTLED: u16 = 0xFFFF;

    /// A slot with this owner and this memory.
    #[inline(always)]
    pub const fn new(owner: u16, prior: Prior) -> Self {
        let prior = match prior {
            Prior::Settled => Self::SETTLED,
            Prior::Moving(backend) => backend,
            Prior::Exceptions => Self::EXCEPTIONS,
        };
        Self(owner as u32 | (prior as u32) << 16)
    }

    /// A settled slot.
    #[inline(always)]
    pub const fn settled(owner: u16) -> Self {
        Self::new(owner, Prior::Settled)
    }

    /// The backend that new flows get.
    #[inline(always)]
    pub const fn owner(self) -> u16 {
        self.0 as u16
    }

    /// What the slot remembers.
    #[inline(always)]
    pub const fn prior(self) -> Prior {
        match (self.0 >> 16) as u16 {
            Self::SETTLED => Prior::Settled,
            Self::EXCEPTIONS => Prior::Exceptions,
            backend => Prior::Moving(backend),
        }
    }

    /// Whether there is nothing to remember; the only question that the settled path asks.
    #[inline(always)]
    pub const fn is_settled(self) -> bool {
        self.0 >> 16 == Self::SETTLED as u32
    }

    /// The slot after it was given to `owner`, such that no flow to a backend that lives goes
    /// elsewhere. `lives` says which backends do. Giving a slot to its own owner drops what it
    /// remembers of backends that died.
    #[must_use]
    pub fn given_to(self, owner: u16, lives: impl Fn(u16) -> bool) -> Self {
        let from = self.owner();
        let worth_remembering = from != Self::NONE && lives(from);
        let prior = match self.prior() {
            Prior::Settled if from == owner || !worth_remembering => Prior::Settled,
            // Flows recorded on others may live on behind an owner that died.
            Prior::Exceptions if from == owner || !worth_remembering => Prior::Exceptions,
            Prior::Settled | Prior::Exceptions => Prior::Moving(from),
            // Every flow opened since the move began is recorded, so only the prior's own are not.
            Prior::Moving(prior) if prior == owner || !lives(prior) => Prior::Exceptions,
            Prior::Moving(prior) => Prior::Moving(prior),
        };
        Self::new(owner, prior)
    }

    /// As [`given_to`](Self::given_to), for a service that records every flow: its slots never
    /// settle, since any flow may be elsewhere.
    ///
    /// Nor does a move end when a slot comes back to its prior. That one's own flows are still
    /// unrecorded, and with UDP nothing else tells them from new ones.
    #[must_use]
    pub fn given_beside_records(self, owner: u16, lives: impl Fn(u16) -> bool) -> Self {
        let from = self.owner();
        let prior = match self.prior() {
            Prior::Moving(prior) if lives(prior) => Prior::Moving(prior),
            Prior::Moving(_) => Prior::Exceptions,
            _ if from == owner || from == Self::NONE || !lives(from) => Prior::Exceptions,
            _ => Prior::Moving(from),
        };
        Self::new(owner, prior)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = 1;
    const B: u16 = 2;
    const C: u16 = 3;

    fn all_live(_: u16) -> bool {
        true
    }

    #[test]
    fn words_are_read_back() {
        for prior in [Prior::Settled, Prior::Exceptions, Prior::Moving(0), Prior::Moving(C)] {
            let slot = Slot::new(B, prior);
            assert_eq!((slot.owner(), slot.prior()), (B, prior));
            assert_eq!(slot.is_settled(), prior == Prior::Settled);
        }
    }

    #[test]
    fn a_slot_given_on_remembers_its_first_owner_until_it_is_back() {
        let slot = Slot::settled(A).given_to(B, all_live);
        assert_eq!(slot, Slot::new(B, Prior::Moving(A)));
        let slot = slot.given_to(C, all_live);
        assert_eq!(slot, Slot::new(C, Prior::Moving(A)));
        assert_eq!(slot.given_to(A, all_live), Slot::new(A, Prior::Exceptions));
    }

    #[test]
    fn what_died_is_not_remembered() {
        let without_a = |backend| backend != A;
        assert_eq!(Slot::settled(A).given_to(B, without_a), Slot::settled(B));
        assert_eq!(
            Slot::new(A, Prior::Exceptions).given_to(B, without_a),
            Slot::new(B, Prior::Exceptions)
        );
        assert_eq!(
            Slot::new(B, Prior::Moving(A)).given_to(B, without_a),
            Slot::new(B, Prior::Exceptions)
        );
        assert_eq!(
            Slot::new(A, Prior::Moving(C)).given_to(B, without_a),
            Slot::new(B, Prior::Moving(C))
        );
        assert_eq!(Slot::settled(Slot::NONE).given_to(B, all_live), Slot::settled(B));
    }

    #[test]
    fn beside_records_no_slot_settles_and_no_move_ends_early() {
        let slot = Slot::new(A, Prior::Exceptions);
        assert_eq!(slot.given_beside_records(A, all_live), slot);
        let moving = slot.given_beside_records(B, all_live);
        assert_eq!(moving, Slot::new(B, Prior::Moving(A)));
        assert_eq!(moving.given_beside_records(A, all_live), Slot::new(A, Prior::Moving(A)));
        assert_eq!(moving.given_beside_records(C, |b| b != A), Slot::new(C, Prior::Exceptions));
        let nobodys = Slot::new(Slot::NONE, Prior::Exceptions);
        assert_eq!(nobodys.given_beside_records(B, all_live), Slot::new(B, Prior::Exceptions));
    }

    #[test]
    fn the_last_backend_that_drains_is_remembered() {
        let slot = Slot::settled(A).given_to(Slot::NONE, all_live);
        assert_eq!(slot, Slot::new(Slot::NONE, Prior::Moving(A)));
    }
}
