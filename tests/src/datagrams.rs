//! What fragments have taught, on the host: the kernel's `FRAGMENTS` as a map.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use lb_common::layout::{FragmentKey, FragmentRecord};

/// Datagrams of which fragments are on their way.
#[derive(Debug, Default)]
pub struct Datagrams(RefCell<HashMap<FragmentKey, Rc<FragmentRecord>>>);

/// As [`lb_common::fragment::Fragments`] has them.
impl Datagrams {
    /// What is remembered of one.
    pub fn find(&self, key: &FragmentKey) -> Option<Rc<FragmentRecord>> {
        self.0.borrow().get(key).cloned()
    }

    /// Remembers one.
    pub fn learn(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.0.borrow_mut().insert(*key, Rc::new(record.copied()));
    }

    /// Forgets one.
    pub fn forget(&self, key: &FragmentKey) {
        self.0.borrow_mut().remove(key);
    }

    /// Forgets all if there are more than so many.
    pub fn limit(&self, most: usize) {
        let mut all = self.0.borrow_mut();
        if all.len() > most {
            all.clear();
        }
    }
}
