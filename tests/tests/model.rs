//! The promise over random histories: a million events and more, over the real steering rules and
//! the controller's real ring.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use proptest::prelude::*;
use weir_lab::model::{BACKENDS, Balance, Event, FLOWS, Nothing, Protocol, World};

/// Histories, and the events of each on average: more than a million together.
const HISTORIES: u32 = 3_000;
const LENGTH: usize = 400;

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        3 => Just(Balance::Ring),
        1 => Just(Balance::Loose),
        2 => Just(Balance::Turns),
        2 => Just(Balance::Load),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let backend = 0..BACKENDS;
    prop_oneof![
        12 => (0..FLOWS).prop_map(Event::Open),
        40 => (0..FLOWS).prop_map(Event::Data),
        4 => (0..FLOWS).prop_map(Event::Close),
        10 => (1..60u8).prop_map(Event::Pass),
        3 => backend.clone().prop_map(Event::Up),
        2 => backend.clone().prop_map(Event::Die),
        1 => backend.clone().prop_map(Event::Fall),
        2 => backend.clone().prop_map(Event::Drain),
        3 => (backend, 0..4u8).prop_map(|(b, w)| Event::Weight(b, w)),
        1 => balance().prop_map(Event::Balance),
        6 => Just(Event::Sweep),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: HISTORIES,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_flow_to_a_living_backend_is_moved(
        protocol in proptest::sample::select(&Protocol::ALL[..]),
        first in balance(),
        events in proptest::collection::vec(event(), 1..2 * LENGTH),
    ) {
        let mut world = World::new(protocol, &mut Nothing);
        for event in std::iter::once(Event::Balance(first)).chain(events) {
            if let Err(broken) = world.happen(event, &mut Nothing) {
                return Err(TestCaseError::fail(broken.to_string()));
            }
        }
    }
}
