//! Histories of a host that is probed.

use super::*;

const INTERVAL: Duration = Duration::from_millis(10);
const ROUND_TRIP: Duration = Duration::from_micros(200);

/// A host, and who probes it.
struct World {
    prober: Prober,
    now: Duration,
    /// When the host stops to answer.
    dies: Duration,
    /// When its daemon gave its last sign of life.
    beats_until: Duration,
    silences: Vec<Silence>,
    ends: usize,
    changes: Vec<Liveness>,
}

impl World {
    fn new() -> Self {
        Self {
            prober: Prober::new(INTERVAL, u64::MAX - 2, Duration::ZERO),
            now: Duration::ZERO,
            dies: Duration::MAX,
            beats_until: Duration::MAX,
            silences: Vec::new(),
            ends: 0,
            changes: Vec::new(),
        }
    }

    fn known() -> Self {
        let mut world = Self::new();
        world.until(Duration::from_secs(2));
        assert_eq!(world.prober.liveness(), Liveness::Alive);
        world.changes.clear();
        world
    }

    /// Lets time go by; the prober is on time.
    fn until(&mut self, end: Duration) {
        while self.prober.deadline() <= end {
            self.now = self.now.max(self.prober.deadline());
            let (nonce, news) = self.prober.tick(self.now);
            self.take(news);
            if self.now < self.dies {
                self.answer(nonce.expect("it was due"), self.now + ROUND_TRIP);
            }
        }
        self.now = end;
    }

    fn answer(&mut self, nonce: u64, at: Duration) {
        let age = at.saturating_sub(self.beats_until).as_nanos();
        let age = u64::try_from(age).unwrap();
        let message = Message { answer: true, sender: 2, nonce, age };
        let news = self.prober.answered(&message, at);
        self.take(news);
    }

    fn take(&mut self, news: News) {
        self.changes.extend(news.changed);
        match news.silence {
            Some(Turn::Silent(silence)) => self.silences.push(silence),
            Some(Turn::Answers) => self.ends += 1,
            None => {}
        }
    }
}

#[test]
fn three_lost_probes_are_a_silence() {
    let mut world = World::known();
    world.dies = world.now + INTERVAL / 2;
    world.until(world.dies + INTERVAL * 3);
    let [silence] = world.silences[..] else { panic!("{:?}", world.silences) };
    assert!(silence.since >= world.dies && silence.last <= world.dies + INTERVAL * 3);
    assert_eq!(silence.last, silence.since + INTERVAL * 2);
    world.until(world.now + INTERVAL * 100);
    assert_eq!((world.silences.len(), &world.changes[..]), (1, &[Liveness::Silent][..]));
}

#[test]
fn a_host_that_never_answered_is_not_silent() {
    let mut world = World::new();
    world.dies = Duration::ZERO;
    world.until(Duration::from_secs(10));
    assert_eq!((world.silences.len(), world.changes.len()), (0, 0));
    assert_eq!(world.prober.liveness(), Liveness::Unknown);
}

#[test]
fn one_answer_ends_a_silence_and_three_make_the_next_one_possible() {
    let mut world = World::known();
    world.dies = world.now;
    world.until(world.now + INTERVAL * 50);
    let (nonce, _) = world.prober.tick(world.prober.deadline());
    world.answer(nonce.unwrap(), world.now);
    assert_eq!((world.silences.len(), world.ends), (1, 1));
    world.until(world.now + INTERVAL * 50);
    assert_eq!(world.silences.len(), 1, "an answer now and then is no life");
    world.dies = Duration::MAX;
    world.until(world.now + INTERVAL * 50);
    assert_eq!(world.prober.liveness(), Liveness::Alive);
    world.dies = world.now;
    world.until(world.now + INTERVAL * 50);
    assert_eq!(world.silences.len(), 2);
}

#[test]
fn a_stall_of_our_own_is_no_silence() {
    let mut world = World::known();
    let (first, _) = world.prober.tick(world.prober.deadline());
    let (second, _) = world.prober.tick(world.prober.deadline());
    // Their answers were lost; now a second passes in which nothing is sent.
    assert!(first.is_some() && second.is_some());
    world.now += Duration::from_secs(1);
    let (_, news) = world.prober.tick(world.now);
    assert_eq!(news, News::default());
    world.until(world.now + INTERVAL * 5);
    assert_eq!((world.silences.len(), world.changes.len()), (0, 0));
    // A host that died meanwhile is found as quickly as ever.
    world.dies = world.now;
    world.now += Duration::from_secs(1);
    world.until(world.now + INTERVAL * 4);
    assert_eq!(world.silences.len(), 1);
}

#[test]
fn late_answers_count_and_foreign_ones_do_not() {
    let mut world = World::known();
    let sent: Vec<u64> =
        (0..3).filter_map(|_| world.prober.tick(world.prober.deadline()).0).collect();
    assert_eq!(sent.len(), 3);
    let now = world.prober.deadline();
    world.answer(sent[2].wrapping_add(1_000), now);
    assert_eq!(world.ends, 0);
    world.answer(sent[2], now);
    world.answer(sent[1], now);
    let (_, news) = world.prober.tick(now);
    assert_eq!(news.silence, None);
    assert_eq!(world.prober.liveness(), Liveness::Alive);
}

#[test]
fn a_daemon_that_is_gone_is_told_apart_from_its_host() {
    let mut world = World::known();
    world.beats_until = world.now;
    world.until(world.now + STALE_LEAST * 2);
    assert_eq!((&world.changes[..], world.silences.len()), (&[Liveness::DaemonGone][..], 0));
    world.beats_until = Duration::MAX;
    world.until(world.now + INTERVAL * 2);
    assert_eq!(world.changes[1..], [Liveness::Alive]);
    // Also if its host dies then.
    world.beats_until = world.now;
    world.until(world.now + STALE_LEAST * 2);
    world.dies = world.now;
    world.until(world.now + INTERVAL * 5);
    assert_eq!(world.silences.len(), 1);
}

#[test]
fn who_does_not_answer_is_asked_less_often() {
    let probes = |dies: Duration| {
        let mut world = World::new();
        world.dies = dies;
        world.until(Duration::from_secs(1));
        world.prober.nonce.wrapping_sub(u64::MAX - 2)
    };
    // The pace begins with the first answer, a round trip after the first probe.
    assert_eq!((probes(Duration::ZERO), probes(Duration::MAX)), (11, 100));
}
