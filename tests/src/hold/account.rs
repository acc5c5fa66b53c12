//! What is known of the held connections, written by their tasks and read by who waits.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The other side, whoever that was, answered with a reset.
    Reset,
    /// The other side closed it.
    Closed,
    /// There was no answer for five seconds.
    Silent,
    /// Another backend answered.
    Foreign,
    /// The answer was to something else.
    Garbled,
}

/// What happened since some moment. The control connection is not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The broken connections, by backend and kind of end.
    pub ended: BTreeMap<(String, End), Ended>,
    /// Attempts to open a connection that failed, by reason; each was repeated. One that failed
    /// after it was established is among them too: it had not yet learned whose it was.
    pub failed_to_open: BTreeMap<String, u64>,
    /// The longest time from a question to its answer, or until now where that is to come. Broken
    /// connections do not count.
    pub longest_stall: Duration,
    /// The same of the control connection: what the machine itself adds.
    pub longest_control_stall: Duration,
}

/// Broken connections of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// How many.
    pub number: usize,
    /// When the last of them ended, after the account was begun.
    pub last: Duration,
}

/// The books: one place for each connection, the last for the control connection.
#[derive(Debug)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    control: usize,
}

#[derive(Debug)]
struct Books {
    places: Vec<Place>,
    /// Whose turn it is to be renewed.
    oldest: usize,
    begun: Instant,
    account: Account,
}

/// A place of one connection at a time.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Whose it is; `None` while there is none.
    backend: Option<Arc<str>>,
    /// The question that waits for its answer.
    asked: Option<Instant>,
    /// When the last question that was answered was asked.
    answered: Option<Instant>,
    /// To be closed and opened anew.
    renew: bool,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(connections: usize) -> Self {
        let books = Books {
            places: vec![Place::default(); connections + 1],
            oldest: 0,
            begun: Instant::now(),
            account: Account::default(),
        };
        Self { books: Mutex::new(books), control: connections }
    }

    /// The place of the control connection.
    pub(super) fn control(&self) -> usize {
        self.control
    }

    /// A connection is open: its first question, at `asked`, was answered by `backend`.
    pub(super) fn opened(&self, index: usize, backend: &str, asked: Instant) {
        let backend = Some(backend.into());
        self.books().places[index] =
            Place { backend, asked: None, answered: Some(asked), renew: false };
    }

    /// A question is about to be sent. Returns whether the connection shall be closed instead.
    pub(super) fn asks(&self, index: usize, now: Instant) -> bool {
        let place = &mut self.books().places[index];
        place.asked = (!place.renew).then_some(now);
        place.renew
    }

    /// The question was answered.
    pub(super) fn answered(&self, index: usize, now: Instant) {
        let mut books = self.books();
        let place = &mut books.places[index];
        let Some(asked) = place.asked.take() else { return };
        place.answered = Some(asked);
        books.account.stalled(index == self.control, now - asked);
    }

    /// A connection was closed in order.
    pub(super) fn renewed(&self, index: usize) {
        self.books().places[index] = Place::default();
    }

    /// A connection broke.
    pub(super) fn ended(&self, index: usize, end: End, now: Instant) {
        let mut books = self.books();
        let place = std::mem::take(&mut books.places[index]);
        let last = now.saturating_duration_since(books.begun);
        if index != self.control
            && let Some(backend) = place.backend
        {
            let ended = books.account.ended.entry((backend.to_string(), end)).or_default();
            *ended = Ended { number: ended.number + 1, last };
        }
    }

    /// None could be opened.
    pub(super) fn failed_to_open(&self, why: &str) {
        *self.books().account.failed_to_open.entry(why.to_owned()).or_default() += 1;
    }

    pub(super) fn by_backend(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for backend in self.books().places[..self.control].iter().filter_map(|p| p.backend.as_ref())
        {
            *counts.entry(backend.to_string()).or_default() += 1;
        }
        counts
    }

    pub(super) fn begin(&self, now: Instant) {
        let mut books = self.books();
        books.begun = now;
        books.account = Account::default();
    }

    pub(super) fn account(&self, now: Instant) -> Account {
        let books = self.books();
        let mut account = books.account.clone();
        for (index, place) in books.places.iter().enumerate() {
            let waiting = place.asked.map(|asked| now.saturating_duration_since(asked));
            account.stalled(index == self.control, waiting.unwrap_or_default());
        }
        account
    }

    pub(super) fn renew(&self, number: usize) {
        let mut books = self.books();
        for _ in 0..number.min(self.control) {
            let index = books.oldest;
            books.places[index].renew = true;
            books.oldest = (index + 1) % self.control;
        }
    }

    /// How many are not open, or have no answer to anything that they asked after `start`.
    pub(super) fn not_answered_since(&self, start: Instant) -> usize {
        let waits = |place: &&Place| {
            place.backend.is_none() || place.answered.is_none_or(|asked| asked < start)
        };
        self.books().places.iter().filter(waits).count()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Account ===

impl Account {
    /// Broken connections of the backends that `counts`: how many, and when the last one ended.
    pub fn broken(&self, counts: impl Fn(&str) -> bool) -> Ended {
        let ended = self.ended.iter().filter(|((backend, _), _)| counts(backend));
        ended.fold(Ended::default(), |sum, (_, ended)| Ended {
            number: sum.number + ended.number,
            last: sum.last.max(ended.last),
        })
    }

    fn stalled(&mut self, control: bool, stall: Duration) {
        let longest =
            if control { &mut self.longest_control_stall } else { &mut self.longest_stall };
        *longest = stall.max(*longest);
    }
}

// === impl End ===

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Foreign => "answered by another",
            Self::Garbled => "wrong answer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn breaks_are_told_apart_by_backend() {
        let ledger = Ledger::new(3);
        let start = Instant::now();
        ledger.begin(start);
        for (index, backend) in ["b1", "b2", "b2", "b1"].into_iter().enumerate() {
            ledger.opened(index, backend, start);
        }
        ledger.ended(0, End::Silent, start + ms(20));
        ledger.ended(1, End::Reset, start + ms(30));
        ledger.ended(2, End::Closed, start + ms(10));
        ledger.ended(ledger.control(), End::Reset, start + ms(40));
        let account = ledger.account(start + ms(50));
        assert_eq!(account.broken(|name| name == "b1"), Ended { number: 1, last: ms(20) });
        assert_eq!(account.broken(|name| name == "b2"), Ended { number: 2, last: ms(30) });
        assert_eq!(account.broken(|_| true).number, 3, "the control connection is none of them");
        assert!(ledger.by_backend().is_empty());
    }

    #[test]
    fn a_stall_counts_until_now_and_starts_anew_with_the_account() {
        let ledger = Ledger::new(2);
        let start = Instant::now();
        (0..3).for_each(|index| ledger.opened(index, "b1", start));
        assert!(!ledger.asks(0, start) && !ledger.asks(ledger.control(), start));
        ledger.answered(0, start + ms(30));
        ledger.answered(ledger.control(), start + ms(3));
        assert!(!ledger.asks(1, start + ms(10)));
        let account = ledger.account(start + ms(60));
        assert_eq!((account.longest_stall, account.longest_control_stall), (ms(50), ms(3)));
        ledger.answered(1, start + ms(60));
        ledger.begin(start + ms(60));
        assert_eq!(ledger.account(start + ms(70)), Account::default());
    }

    #[test]
    fn waiting_is_for_questions_asked_after_the_call() {
        let ledger = Ledger::new(1);
        let start = Instant::now();
        (0..2).for_each(|index| ledger.opened(index, "b1", start));
        let call = start + ms(5);
        assert_eq!(ledger.not_answered_since(call), 2);
        (0..2).for_each(|index| assert!(!ledger.asks(index, start + ms(4))));
        (0..2).for_each(|index| ledger.answered(index, start + ms(6)));
        assert_eq!(ledger.not_answered_since(call), 2, "asked before the call");
        (0..2).for_each(|index| assert!(!ledger.asks(index, start + ms(7))));
        (0..2).for_each(|index| ledger.answered(index, start + ms(8)));
        assert_eq!(ledger.not_answered_since(call), 0);
    }

    #[test]
    fn renewal_goes_round_and_spares_the_control_connection() {
        let ledger = Ledger::new(3);
        let now = Instant::now();
        (0..4).for_each(|index| ledger.opened(index, "b1", now));
        ledger.renew(2);
        assert_eq!([0, 1, 2].map(|index| ledger.asks(index, now)), [true, true, false]);
        (0..2).for_each(|index| ledger.opened(index, "b1", now));
        ledger.renew(2);
        assert_eq!([0, 1, 2, 3].map(|index| ledger.asks(index, now)), [true, false, true, false]);
    }
}
