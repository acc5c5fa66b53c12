//! What operators changed on a peer while there was no connection with it, and what was made of it
//! here when it came back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sync::packet::Stamped;

/// Backends that are named; of more, it is said how many.
const NAMED_MAX: usize = 8;

/// The changes that came with one peer.
#[derive(Debug)]
pub(super) struct Apart {
    /// When the connection was made.
    since: Duration,
    named: Vec<String>,
    count: usize,
    /// Some came since it was last looked at.
    grew: bool,
}

impl Apart {
    /// A connection was made.
    pub(super) fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { since, named: Vec::new(), count: 0, grew: false }
    }

    /// A change of the peer was taken over.
    pub(super) fn took(&mut self, Stamped { service, backend, stamp, .. }: &Stamped) {
        if u128::from(stamp.millis) >= self.since.as_millis() {
            // Made since then: nothing was apart.
            return;
        }
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{service}/{backend}"));
        }
        self.count += 1;
        self.grew = true;
    }

    /// All that came, in words, once no more comes.
    pub(super) fn settle(&mut self) -> Option<String> {
        if std::mem::take(&mut self.grew) || self.count == 0 {
            return None;
        }
        let more = std::mem::take(&mut self.count) - self.named.len();
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        Some(format!("{}{rest}", std::mem::take(&mut self.named).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Name,
        core::changes::{Change, Stamp},
    };

    #[test]
    fn what_was_changed_before_the_connection_is_told_once_and_all_together() {
        let mut apart = Apart::new(UNIX_EPOCH + Duration::from_secs(100));
        let change = |backend: &str, seconds: u64| Stamped {
            service: Name::new("web").unwrap(),
            backend: Name::new(backend).unwrap(),
            stamp: Stamp { millis: seconds * 1000, node: Name::new("lb-2").unwrap() },
            change: Change::default(),
        };
        assert_eq!(apart.settle(), None);
        apart.took(&change("later", 100));
        assert_eq!((apart.settle(), apart.settle()), (None, None));
        apart.took(&change("b1", 99));
        apart.took(&change("b2", 98));
        assert_eq!(apart.settle(), None, "more may come");
        assert_eq!(apart.settle().as_deref(), Some("web/b1, web/b2"));
        assert_eq!(apart.settle(), None);
        (0..1000).for_each(|number| apart.took(&change(&format!("b{number}"), 1)));
        apart.settle();
        let told = apart.settle().unwrap();
        assert!(told.ends_with("web/b7 and 992 more"), "{told}");
    }
}
