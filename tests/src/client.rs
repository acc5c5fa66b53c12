//! The client: one request, ten thousand, or traffic that goes on while things break.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    Namespace, Tally,
    http::{self, Target},
    udp,
};

/// How long a request may wait for an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long many requests may take together; so many are not sent when each of them times out.
const BATCH_LIMIT: Duration = Duration::from_secs(120);
/// How long a request may wait in [`Traffic`], where a lost request must not hold up those after it for long.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(1);
/// How long [`Traffic`] may take for some more answers.
const STEADY_LIMIT: Duration = Duration::from_secs(30);
/// How long each thread of [`Traffic`] rests between requests: the machine has others to serve.
const TRAFFIC_PAUSE: Duration = Duration::from_millis(1);

/// A machine that asks. All its requests come from one address.
#[derive(Debug)]
pub struct Client {
    namespace: Namespace,
    address: Ipv4Addr,
    address6: Ipv6Addr,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What wrk measured.
#[derive(Debug, Clone, PartialEq)]
pub struct WrkReport {
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// Failed connections, reads, writes, time-outs, and answers that are not 2xx or 3xx.
    pub errors: u64,
}

/// Requests that go on in the background until they are [stopped](Traffic::stop) or dropped.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<Tally>>>,
}

/// What came of [`Traffic`] so far.
#[derive(Debug, Default)]
struct Progress {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// One kind of request: returns the name of the backend that answered.
type Request = Box<dyn Fn() -> io::Result<String> + Send + Sync>;

impl Client {
    pub(crate) fn new(namespace: Namespace, address: Ipv4Addr, address6: Ipv6Addr) -> Self {
        Self { namespace, address, address6 }
    }

    /// Its address: the source of all its requests over IPv4.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address: the source of all others.
    pub fn address6(&self) -> Ipv6Addr {
        self.address6
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Forgets the MAC addresses of its neighbours, so that it asks for them anew.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn forget_neighbours(&self) -> Result<()> {
        self.namespace.run(&["ip", "neighbour", "flush", "dev", "eth0"]).map(drop)
    }

    /// Believes for an hour what it has once learned of a neighbour, unless it is told otherwise.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn believe_neighbours(&self) -> Result<()> {
        self.namespace.sysctl(&[("ipv4/neigh/eth0/base_reachable_time_ms", "3600000")])?;
        self.forget_neighbours()
    }

    /// Gets a URL with curl.
    ///
    /// # Errors
    ///
    /// There was no answer within five seconds; with what curl says.
    pub fn get(&self, url: &str) -> Result<Response> {
        let limit = REQUEST_LIMIT.as_secs().to_string();
        let curl = ["curl", "-sS", "--max-time", &limit, "-w", "\n%{http_code}", url];
        let output = self.namespace.run(&curl)?;
        let (body, status) = output.rsplit_once('\n').context("curl printed no status")?;
        Ok(Response { status: status.parse()?, body: body.to_owned() })
    }

    /// Sends `number` HTTP requests for `/`, each on a new connection, from `concurrency` threads;
    /// fewer if that would take more than two minutes.
    ///
    /// # Errors
    ///
    /// The namespace is gone. Requests that fail are counted.
    pub fn requests(&self, server: SocketAddr, number: u64, concurrency: usize) -> Result<Tally> {
        let request = http_request(server, REQUEST_LIMIT);
        drive(&self.namespace, concurrency, &up_to(number), &request)
    }

    /// Sends `number` datagrams to a UDP echo, each from a new socket, from `concurrency` threads.
    ///
    /// # Errors
    ///
    /// As for [`Client::requests`].
    pub fn udp_requests(
        &self,
        server: SocketAddr,
        number: u64,
        concurrency: usize,
    ) -> Result<Tally> {
        let request: Request = Box::new(move || udp::request(Target::new(server), REQUEST_LIMIT));
        drive(&self.namespace, concurrency, &up_to(number), &request)
    }

    /// Sends one HTTP request for `/` from a chosen port and returns the answering backend's name.
    ///
    /// # Errors
    ///
    /// The port is taken, or there was no good answer.
    pub fn request_from(&self, source_port: u16, server: SocketAddr) -> Result<String> {
        let target = Target { server, source_port };
        let answer = self.namespace.enter(|| get_name(target, REQUEST_LIMIT))?;
        answer.with_context(|| format!("request from port {source_port} to {server}"))
    }

    /// Sends one datagram from a chosen port and returns the answering backend's name.
    ///
    /// # Errors
    ///
    /// The port is taken, or there was no good answer.
    pub fn udp_request_from(&self, source_port: u16, server: SocketAddr) -> Result<String> {
        let target = Target { server, source_port };
        let answer = self.namespace.enter(|| udp::request(target, REQUEST_LIMIT))?;
        answer.with_context(|| format!("datagram from port {source_port} to {server}"))
    }

    /// Sends one datagram of so many bytes, and returns the name of the backend that answered all of it.
    ///
    /// # Errors
    ///
    /// There was no good answer.
    pub fn long_udp_request(&self, server: SocketAddr, bytes: usize) -> Result<String> {
        let question: String = ('a'..='z').cycle().take(bytes).collect();
        let target = Target::new(server);
        let answer = self.namespace.enter(|| udp::ask(target, &question, REQUEST_LIMIT))?;
        answer.with_context(|| format!("a datagram of {bytes} bytes to {server}"))
    }

    /// Starts HTTP requests for `/`, each on a new connection, from `concurrency` threads. Each
    /// waits a second for its answer. Returns after the first answer or failure.
    ///
    /// # Errors
    ///
    /// The namespace is gone.
    pub fn traffic(&self, server: SocketAddr, concurrency: usize) -> Result<Traffic> {
        Traffic::start(&self.namespace, concurrency, http_request(server, TRAFFIC_LIMIT))
    }

    /// The same from two threads, well under way.
    ///
    /// # Errors
    ///
    /// As for [`Client::traffic`], or there are no answers.
    pub fn steady_traffic(&self, server: SocketAddr) -> Result<Traffic> {
        let traffic = self.traffic(server, 2)?;
        traffic.wait_for_more(50, STEADY_LIMIT)?;
        Ok(traffic)
    }

    /// The same with datagrams to a UDP echo, each from a new socket.
    ///
    /// # Errors
    ///
    /// As for [`Client::traffic`].
    pub fn udp_traffic(&self, server: SocketAddr, concurrency: usize) -> Result<Traffic> {
        let request: Request = Box::new(move || udp::request(Target::new(server), TRAFFIC_LIMIT));
        Traffic::start(&self.namespace, concurrency, request)
    }

    /// Runs wrk, which keeps its connections open, with one thread.
    ///
    /// # Errors
    ///
    /// It fails, or prints something unexpected.
    pub fn wrk(&self, url: &str, connections: u32, duration: Duration) -> Result<WrkReport> {
        ensure!(duration >= Duration::from_secs(1), "wrk counts whole seconds");
        let (connections, seconds) = (connections.to_string(), format!("{}s", duration.as_secs()));
        let wrk = ["wrk", "-t1", "-c", &connections, "-d", &seconds, "--timeout", "5s", url];
        let output = self.namespace.run_within(duration + Duration::from_secs(10), &wrk)?;
        WrkReport::parse(&output).ok_or_else(|| anyhow!("wrk printed:\n{output}"))
    }
}

// === impl Traffic ===

impl Traffic {
    fn start(namespace: &Namespace, concurrency: usize, request: Request) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        let (stopped, counts) = (Arc::clone(&stop), Arc::clone(&progress));
        let (first, started) = std::sync::mpsc::sync_channel::<()>(1);
        let counted: Request = Box::new(move || {
            thread::sleep(TRAFFIC_PAUSE);
            let outcome = request();
            let count = if outcome.is_ok() { &counts.answered } else { &counts.failed };
            count.fetch_add(1, Ordering::Relaxed);
            // Full from the second request on, and closed when nobody waits any more.
            let _ = first.try_send(());
            outcome
        });
        let namespace = namespace.clone();
        let thread = thread::Builder::new().name("traffic".to_owned()).spawn(move || {
            drive(&namespace, concurrency, &|| !stopped.load(Ordering::Relaxed), &counted)
        })?;
        // An error means that the threads could not start, which `stop` reports.
        let _ = started.recv();
        Ok(Self { stop, progress, thread: Some(thread) })
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// How many requests failed so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Ordering::Relaxed)
    }

    /// Waits until `number` more requests are answered than at the call.
    ///
    /// # Errors
    ///
    /// They are not within the limit.
    pub fn wait_for_more(&self, number: u64, limit: Duration) -> Result<()> {
        wait_for(&self.progress.answered, number, limit).context("answers to the traffic")
    }

    /// Waits until `number` more requests have failed than at the call.
    ///
    /// # Errors
    ///
    /// They have not within the limit.
    pub fn wait_for_failures(&self, number: u64, limit: Duration) -> Result<()> {
        wait_for(&self.progress.failed, number, limit).context("failures of the traffic")
    }

    /// Ends the requests after some more, of which all and all before must have been answered.
    ///
    /// # Errors
    ///
    /// One failed; or as for [`Traffic::stop`].
    pub fn stop_unharmed(self) -> Result<Tally> {
        self.wait_for_more(100, STEADY_LIMIT)?;
        let tally = self.stop()?;
        ensure!(tally.failed == 0, "{tally}");
        Ok(tally)
    }

    /// Ends the requests and returns what came of them.
    ///
    /// # Errors
    ///
    /// The namespace could not be entered, or a thread panicked.
    pub fn stop(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the traffic was stopped before")?;
        thread.join().map_err(|_| anyhow!("the traffic's thread panicked"))?
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops it without `stop` does not want to know.
            let _ = thread.join();
        }
    }
}

// === impl Response ===

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

// === impl WrkReport ===

impl WrkReport {
    fn parse(output: &str) -> Option<Self> {
        let after = |label: &str| {
            output.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim)
        };
        let requests_per_second = after("Requests/sec:")?.parse().ok()?;
        // "connect 0, read 0, write 0, timeout 0"; the line is missing if there were none.
        let socket = after("Socket errors:").unwrap_or("").split([' ', ',']);
        let status = after("Non-2xx or 3xx responses:").unwrap_or("").split(' ');
        let errors = socket.chain(status).filter_map(|word| word.parse::<u64>().ok()).sum();
        Some(Self { requests_per_second, errors })
    }
}

// === helpers ===

/// Waits until a count has grown.
fn wait_for(count: &AtomicU64, more: u64, limit: Duration) -> Result<()> {
    let (before, end) = (count.load(Ordering::Relaxed), Instant::now() + limit);
    loop {
        let seen = count.load(Ordering::Relaxed) - before;
        if seen >= more {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{seen} of {more} within {limit:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends requests from several threads inside a namespace for as long as `more` says so.
fn drive(
    namespace: &Namespace,
    concurrency: usize,
    more: &(dyn Fn() -> bool + Sync),
    request: &Request,
) -> Result<Tally> {
    let tally = Mutex::new(Tally::start());
    let work = || -> Result<()> {
        namespace.move_this_thread()?;
        while more() {
            let outcome = request();
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.count(outcome, Instant::now());
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrency.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a client's thread panicked")))
        })
    })?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(tally.finish(Instant::now()))
}

/// Says yes `number` times, to all threads together, unless time runs out.
fn up_to(number: u64) -> impl Fn() -> bool + Sync {
    let (asked, end) = (AtomicU64::new(0), Instant::now() + BATCH_LIMIT);
    move || asked.fetch_add(1, Ordering::Relaxed) < number && Instant::now() < end
}

fn http_request(server: SocketAddr, limit: Duration) -> Request {
    Box::new(move || get_name(Target::new(server), limit))
}

fn get_name(target: Target, limit: Duration) -> io::Result<String> {
    match http::request(target, "/", limit)? {
        (200, name) => Ok(name),
        (status, body) => Err(io::Error::other(format!("status {status}: {body}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_reports_are_read_with_all_their_errors() {
        let output = "  100 requests in 1.00s, 10KB read\n  \
             Socket errors: connect 1, read 2, write 0, timeout 3\n  \
             Non-2xx or 3xx responses: 4\nRequests/sec:   1234.50\n";
        let report = WrkReport::parse(output);
        assert_eq!(report, Some(WrkReport { requests_per_second: 1234.5, errors: 10 }));
        assert_eq!(WrkReport::parse("unable to connect"), None);
    }
}
