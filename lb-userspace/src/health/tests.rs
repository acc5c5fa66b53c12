//! The checker as the daemon sees it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use super::*;
use crate::health::testing::{
    closed_port, eventually, http_check, loopback, silent_server, soon, target,
};

fn checker(capacity: usize) -> (Checker, mpsc::Receiver<HealthReport>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Checker::new(sender, Clock::start()), receiver)
}

/// A server that accepts and closes, and how often it has.
async fn counting_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

/// The same target with a timeout of half a second.
fn impatient(mut target: Target) -> Target {
    target.check.timeout = Duration::from_millis(500);
    target
}

fn name(report: &HealthReport) -> &str {
    report.id.backend.as_str()
}

#[tokio::test]
async fn each_kind_reports_what_it_found() {
    let (open, _) = counting_server().await;
    let (_port, closed) = closed_port();
    let silent = silent_server().await.port();
    let script = |word: &str| CheckKind::Script(vec![word.to_owned()]);
    let (mut checker, mut reports) = checker(64);
    checker.set(vec![
        target("open", open, CheckKind::Tcp),
        target("closed", closed.port(), CheckKind::Tcp),
        impatient(target("http", silent, CheckKind::Http(http_check()))),
        impatient(target("https", silent, CheckKind::Https(http_check()))),
        target("true", 1, script("/bin/true")),
        target("false", 1, script("/bin/false")),
        target("none", 1, CheckKind::None),
    ]);
    let mut outcomes = HashMap::new();
    while outcomes.len() < 7 {
        let report = soon(reports.recv()).await.unwrap();
        assert!(report.started.monotonic <= report.finished.monotonic);
        outcomes.insert(name(&report).to_owned(), report.outcome);
    }
    let failed = |reason: &str| Err(reason.to_owned());
    assert_eq!(outcomes["open"], Ok(()));
    assert_eq!(outcomes["closed"], failed("connection refused"));
    assert_eq!(outcomes["http"], failed("no answer within 500ms"));
    assert_eq!(outcomes["https"], failed("no answer within 500ms"));
    assert_eq!(outcomes["true"], Ok(()));
    assert_eq!(outcomes["false"], failed("exit status 1"));
    assert_eq!(outcomes["none"], Ok(()));
}

#[tokio::test]
async fn checks_come_at_their_interval() {
    let (port, _) = counting_server().await;
    let (mut checker, mut reports) = checker(64);
    // The first is due at once. It may begin late, and the beat goes on from when it was due.
    checker.context.delay = || 0.0;
    let due = checker.context.clock.now().monotonic;
    checker.set(vec![target("b1", port, CheckKind::Tcp)]);
    let mut last = due;
    for _ in 0..6 {
        last = soon(reports.recv()).await.unwrap().started.monotonic;
    }
    // Never early by more than the jitter; a loaded machine can only make them late.
    assert!(last >= due + Duration::from_millis(5 * 200 - 10), "{due:?} to {last:?}");
}

#[tokio::test]
async fn none_reports_once() {
    let (mut checker, mut reports) = checker(64);
    let targets = vec![target("b1", 1, CheckKind::None)];
    checker.set(targets.clone());
    assert_eq!(soon(reports.recv()).await.unwrap().outcome, Ok(()));
    checker.set(targets);
    drop(checker);
    // All senders are gone, and nothing else was sent.
    assert_eq!(soon(reports.recv()).await, None);
}

#[tokio::test]
async fn unchanged_targets_are_left_undisturbed() {
    let (port, count) = counting_server().await;
    let (mut checker, mut reports) = checker(64);
    let mut kept = target("kept", port, CheckKind::Tcp);
    // The first check comes within a second, the next one long after this test.
    kept.check.interval = Duration::from_secs(3600);
    checker.set(vec![kept.clone()]);
    soon(reports.recv()).await.unwrap();

    // Restarted, it would be checked again within a second.
    let mut clocks = target("clock", port, CheckKind::None);
    for round in 0..12 {
        clocks.check.rise = round; // a change, so that it reports anew
        checker.set(vec![clocks.clone(), kept.clone()]);
        assert_eq!(name(&soon(reports.recv()).await.unwrap()), "clock");
        sleep_until(Instant::now() + Duration::from_millis(100)).await;
    }
    eventually("the one connection is counted", || count.load(Ordering::SeqCst) > 0).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn changed_targets_are_restarted() {
    let (port, _) = counting_server().await;
    let (_closed, closed) = closed_port();
    let (mut checker, mut reports) = checker(64);
    checker.set(vec![target("b1", port, CheckKind::Tcp)]);
    assert_eq!(soon(reports.recv()).await.unwrap().outcome, Ok(()));
    checker.set(vec![target("b1", closed.port(), CheckKind::Tcp)]);
    let refused = Err("connection refused".to_owned());
    while soon(reports.recv()).await.unwrap().outcome != refused {}
    for _ in 0..3 {
        assert_eq!(soon(reports.recv()).await.unwrap().outcome, refused, "the old check runs on");
    }
}

#[tokio::test]
async fn removed_targets_are_stopped_and_so_are_all_at_the_end() {
    let (port, _) = counting_server().await;
    let (mut checker, mut reports) = checker(1);
    let (stays, goes) =
        (target("stays", port, CheckKind::Tcp), target("goes", port, CheckKind::Tcp));
    checker.set(vec![stays.clone(), goes]);
    while name(&soon(reports.recv()).await.unwrap()) != "goes" {}
    checker.set(vec![stays]);
    while reports.try_recv().is_ok() {} // what was on its way
    for _ in 0..5 {
        assert_eq!(name(&soon(reports.recv()).await.unwrap()), "stays");
    }
    drop(checker);
    while soon(reports.recv()).await.is_some() {}
}

#[tokio::test]
async fn checks_end_when_nobody_listens() {
    let (port, count) = counting_server().await;
    let (mut checker, reports) = checker(1);
    drop(reports);
    checker.set(vec![target("b1", port, CheckKind::Tcp)]);
    let task = checker.running.values().next().unwrap().task.clone();
    eventually("the task ends", || task.is_finished()).await;
    assert!(count.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn a_check_without_a_turn_blames_this_machine() {
    let (port, _) = counting_server().await;
    let (mut checker, mut reports) = checker(64);
    checker.context.sockets = Turns::new(1);
    let taken = checker.context.sockets.semaphore.clone().acquire_owned().await.unwrap();
    checker.set(vec![impatient(target("b1", port, CheckKind::Tcp))]);
    assert_eq!(
        soon(reports.recv()).await.unwrap().outcome,
        Err("this machine: 1 health checks are running at once, which is the limit".to_owned())
    );
    drop(taken);
    while soon(reports.recv()).await.unwrap().outcome.is_err() {}
}

#[test]
fn targets_that_wait_take_little_memory() {
    let (sender, _reports) = mpsc::channel(1);
    let context = Checker::new(sender, Clock::start()).context;
    let waiting = context.run(target("b1", 1, CheckKind::Tcp).into());
    let bytes = size_of_val(&waiting);
    assert!(bytes <= 1024, "{bytes} bytes, of which there are 20 000 in a large configuration");
}

#[test]
fn sockets_are_limited_but_not_to_nothing() {
    assert!((1..=MAX_SOCKETS).contains(&socket_limit()));
}
