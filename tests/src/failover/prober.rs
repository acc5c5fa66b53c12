//! A client that sends a small datagram every millisecond, and knows which were answered.
//!
//! What counts is what was lost, not when an answer was read: on a busy machine the client itself
//! waits for a CPU. An answer that took [`ANSWER_LIMIT`] is none, or those that wait in a queue for
//! the new owner's MAC address would hide the time without one.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use crate::{Client, http::Target, sys};

/// Between two datagrams.
const PERIOD: Duration = Duration::from_millis(1);
/// The age from which a datagram without an answer is lost.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(100);
/// Five minutes of datagrams; nobody measures that long.
const DATAGRAMS_LIMIT: usize = 300_000;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Datagrams to one server until this is dropped.
#[derive(Debug)]
pub struct Prober {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gaps {
    /// The longest time without an answer: from the first datagram that was lost to the next that
    /// was answered. Zero if none was lost.
    pub longest: Duration,
    /// How many datagrams were lost.
    pub lost: usize,
    /// The longest time between two datagrams: shorter gaps than this may have been overlooked.
    pub pause: Duration,
}

/// What became of each datagram. Without a lock: whoever looks on must not hold up the thread that
/// keeps time.
#[derive(Debug)]
struct Log {
    start: Instant,
    length: AtomicUsize,
    /// When each was sent, in nanoseconds after the start; [`ANSWERED`] if it was answered.
    datagrams: Box<[AtomicU64]>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    sent: Instant,
    answered: bool,
}

/// Beyond any number of nanoseconds since a start.
const ANSWERED: u64 = 1 << 63;

impl Client {
    /// Starts to send datagrams to a UDP echo.
    ///
    /// # Errors
    ///
    /// There is no way to the server.
    pub fn probe(&self, server: SocketAddr) -> Result<Prober> {
        let socket = self.namespace().enter(|| -> io::Result<_> {
            let socket = UdpSocket::bind(Target::new(server).local())?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })??;
        let log = Arc::new(Log::new());
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("prober".to_owned())
            .spawn(move || probe(&socket, &stopped, &kept))?;
        Ok(Prober { log, stop, thread: Some(thread) })
    }
}

// === impl Prober ===

impl Prober {
    /// Waits until every datagram has been answered that was sent during some time `period`, all
    /// of it after the call.
    ///
    /// # Errors
    ///
    /// That was not so within the limit.
    pub fn wait_until_answered(&self, period: Duration, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let datagrams = self.log.datagrams();
            if answered_last(&datagrams, start) >= period {
                return Ok(());
            }
            ensure!(
                start.elapsed() < limit,
                "{} of {} datagrams are lost, and no {period:?} without a loss within {limit:?}",
                datagrams.iter().filter(|datagram| !datagram.answered).count(),
                datagrams.len()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends it, and returns what was lost.
    ///
    /// # Errors
    ///
    /// The last datagrams are lost, so that the last gap's end is not known.
    pub fn stop(mut self) -> Result<Gaps> {
        self.end()?;
        let log = self.log.datagrams();
        // The very last may have had no time to be answered.
        let end = log.last().context("no datagram was sent")?.sent;
        let settled = log.partition_point(|datagram| datagram.sent + ANSWER_LIMIT < end);
        gaps(&log[..settled]).context("the last datagrams are lost")
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the prober's thread panicked"))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // Only a panic of the thread is lost here, which has printed itself.
        let _ = self.end();
    }
}

// === impl Log ===

impl Log {
    fn new() -> Self {
        let datagrams = (0..DATAGRAMS_LIMIT).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), length: AtomicUsize::new(0), datagrams }
    }

    /// Adds a datagram and returns its number; `None` when there is no more room.
    fn sent(&self, now: Instant) -> Option<usize> {
        let number = self.length.load(Ordering::Relaxed);
        let nanos = u64::try_from((now - self.start).as_nanos()).unwrap_or(ANSWERED - 1);
        self.datagrams.get(number)?.store(nanos, Ordering::Relaxed);
        // Only now may others read it.
        self.length.store(number + 1, Ordering::Release);
        Some(number)
    }

    fn answered(&self, number: usize, now: Instant) {
        if number < self.length.load(Ordering::Relaxed)
            && now < self.datagram(number).sent + ANSWER_LIMIT
        {
            self.datagrams[number].fetch_or(ANSWERED, Ordering::Relaxed);
        }
    }

    fn datagrams(&self) -> Vec<Datagram> {
        let length = self.length.load(Ordering::Acquire);
        (0..length).map(|number| self.datagram(number)).collect()
    }

    fn datagram(&self, number: usize) -> Datagram {
        let word = self.datagrams[number].load(Ordering::Relaxed);
        let sent = self.start + Duration::from_nanos(word & !ANSWERED);
        Datagram { sent, answered: word & ANSWERED != 0 }
    }
}

// === helpers ===

/// How long the last datagrams sent after `start` have all been answered, but for those that may
/// still be.
fn answered_last(log: &[Datagram], start: Instant) -> Duration {
    let now = Instant::now();
    let pending = |datagram: &&Datagram| !datagram.answered && datagram.sent + ANSWER_LIMIT > now;
    let mut run = log
        .iter()
        .rev()
        .skip_while(pending)
        .take_while(|datagram| datagram.answered && datagram.sent >= start);
    let last = run.next();
    let first = run.last().or(last);
    last.zip(first).map_or(Duration::ZERO, |(last, first)| last.sent - first.sent)
}

/// `None` if the last datagram is lost.
fn gaps(log: &[Datagram]) -> Option<Gaps> {
    let mut longest = Duration::ZERO;
    let mut gap_start = None;
    for datagram in log {
        match (datagram.answered, gap_start) {
            (false, None) => gap_start = Some(datagram.sent),
            (true, Some(start)) => {
                longest = longest.max(datagram.sent - start);
                gap_start = None;
            }
            _ => {}
        }
    }
    let pauses = log.windows(2).map(|pair| pair[1].sent - pair[0].sent);
    let lost = log.iter().filter(|datagram| !datagram.answered).count();
    gap_start.is_none().then(|| Gaps { longest, lost, pause: pauses.max().unwrap_or_default() })
}

/// Sends on a beat, and takes the answers in between.
fn probe(socket: &UdpSocket, stop: &AtomicBool, log: &Log) {
    sys::run_first();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let Some(number) = log.sent(now) else { return };
            let datagram = (number as u64).to_be_bytes();
            // The first call may return the error of an earlier datagram instead of sending. One
            // that cannot be sent is lost like one that nobody answers.
            let _ = socket.send(&datagram).or_else(|_| socket.send(&datagram));
            // After a pause of the machine there is no hurry to catch up.
            next = (next + PERIOD).max(now);
        }
        let wait = next.saturating_duration_since(Instant::now());
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(wait)), None);
        take_answers(socket, log);
    }
}

/// Marks what has been answered. An answer ends with the datagram that it answers.
fn take_answers(socket: &UdpSocket, log: &Log) {
    let mut buffer = [0; 256];
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // "Port unreachable" for an earlier datagram.
            Err(_) => continue,
        };
        let number = buffer[..length].last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        if let Some(number) = number.and_then(|number| usize::try_from(number).ok()) {
            log.answered(number, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram a millisecond: `.` was answered, `x` was not.
    fn log_from(start: Instant, text: &str) -> Vec<Datagram> {
        let times = (0..).map(|number| start + number * PERIOD);
        text.chars().zip(times).map(|(c, sent)| Datagram { sent, answered: c == '.' }).collect()
    }

    fn log(text: &str) -> Vec<Datagram> {
        log_from(Instant::now(), text)
    }

    #[test]
    fn a_gap_lasts_from_the_first_loss_to_the_next_answer() {
        let longest = |text| gaps(&log(text)).map(|gaps| gaps.longest.as_millis());
        assert_eq!(longest("......"), Some(0));
        assert_eq!(longest("..x..."), Some(1));
        assert_eq!(longest(".x.xxx.xx.."), Some(3));
        assert_eq!(longest("....xx"), None, "nobody knows when it ends");
    }

    #[test]
    fn losses_and_the_clients_own_pauses_are_counted() {
        let mut log = log("..xx..x...");
        assert_eq!(gaps(&log).map(|gaps| (gaps.lost, gaps.pause)), Some((3, PERIOD)));
        log.drain(7..9);
        assert_eq!(gaps(&log).map(|gaps| (gaps.lost, gaps.pause)), Some((3, 3 * PERIOD)));
    }

    #[test]
    fn the_time_since_the_last_loss_leaves_out_what_is_still_under_way() {
        let now = Instant::now();
        let long_ago = now.checked_sub(2 * ANSWER_LIMIT).expect("this machine is up longer");
        assert_eq!(answered_last(&log_from(long_ago, "..x...."), long_ago), 3 * PERIOD);
        assert_eq!(answered_last(&log_from(long_ago, "..x....xx"), long_ago), Duration::ZERO);
        assert_eq!(answered_last(&log_from(now, "..x....xx"), now), 3 * PERIOD);
        assert_eq!(answered_last(&log_from(now, "..x...."), now + 5 * PERIOD), PERIOD);
        assert_eq!(answered_last(&[], now), Duration::ZERO);
    }
}
