//! What survives the daemon: a file in the state directory, replaced as a whole.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep_until};
use tracing::{error, warn};

use crate::{
    config::Limits, core::saved::Saved, dataplane::TablesId, files::replace, vrrp::HeldAddress,
};

/// Files put aside that are kept.
const ASIDE_MAX: u32 = 8;
/// How many times as long as a write took the next one that is in no hurry waits: with thousands
/// of backends that come up one by one, writing costs a tenth of a processor at most…
const REST: u32 = 9;
/// …and this is how long a crash may set the checks' findings back.
const REST_MAX: Duration = Duration::from_secs(1);

/// The file's content.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// The tables in the kernel, if there are any.
    pub(super) tables: Option<TablesId>,
    /// What the core keeps.
    pub(super) core: Saved,
    /// The addresses that VRRP may have put on interfaces.
    #[serde(default)]
    pub(super) vrrp: Vec<HeldAddress>,
}

/// Held by the one daemon that works with a directory.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

/// Writes states in the background, one at a time; or at once, when asked to.
#[derive(Debug)]
pub(super) struct Saver {
    jobs: mpsc::Sender<Job>,
    /// From when on the next state may be handed over; nothing while one is being written.
    free: Arc<watch::Sender<Option<Instant>>>,
    /// Why the last attempt failed, if it did.
    failure: Arc<Mutex<Option<String>>>,
}

struct Job {
    /// Made into text by the thread that writes: thousands of backends take milliseconds.
    state: State,
    done: Option<mpsc::Sender<()>>,
}

// === impl State ===

impl State {
    /// Reads the state, with what operators should know of it. What makes no sense is put aside,
    /// and everything starts anew.
    ///
    /// # Errors
    ///
    /// What cannot be read cannot be put aside either.
    pub(super) fn load(state_dir: &Path) -> Result<(Self, Vec<String>)> {
        let path = file(state_dir);
        let why = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::default(), Vec::new()));
            }
            Err(error) => error.to_string(),
            Ok(content) => match serde_json::from_slice(&content) {
                Ok(state) => return Ok((state, Vec::new())),
                Err(error) => error.to_string(),
            },
        };
        let aside = free_name(&path);
        fs::rename(&path, &aside).with_context(|| format!("renaming {}", path.display()))?;
        // With the same secret, flows keep their slots in new tables.
        let tables = kept_seed(state_dir).map(|seed| TablesId::new(NO_TABLES, seed));
        let notice = format!(
            "{} makes no sense ({why}): put aside as {}; run-time changes are lost, and \
             connections may have moved",
            path.display(),
            aside.display()
        );
        warn!("{notice}");
        Ok((Self { tables, ..Self::default() }, vec![notice]))
    }
}

/// Of tables that are not there: they stand for the secret that is kept.
const NO_TABLES: Limits = Limits { services: 1, backends: 1, ring_slots: 1024, flows: 1 };

/// The secret of the flow hash, from the file that holds nothing else and is hardly ever written.
fn kept_seed(state_dir: &Path) -> Option<[u64; 2]> {
    serde_json::from_slice(&fs::read(seed_file(state_dir)).ok()?).ok()
}

/// A name for a file put aside, which leaves those put aside before alone, up to a number.
fn free_name(path: &Path) -> PathBuf {
    let names = (1..ASIDE_MAX).map(|n| path.with_extension(format!("json.bad.{n}")));
    let mut names = std::iter::once(path.with_extension("json.bad")).chain(names);
    let free = names.find(|name| !name.exists());
    free.unwrap_or_else(|| path.with_extension("json.bad"))
}

// === impl Lock ===

impl Lock {
    /// Takes the lock; nothing if another process has it.
    pub(super) fn take(state_dir: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(state_dir).map_err(|error| unusable(state_dir, &error))?;
        let path = state_dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable(state_dir, &error))?;
        Self::of(file, &path)
    }

    /// Takes the lock of the directory of pins; nothing if another process has it.
    pub(super) fn take_pins(bpf_dir: &Path) -> Result<Option<Self>> {
        let directory =
            File::open(bpf_dir).with_context(|| format!("opening {}", bpf_dir.display()))?;
        Self::of(directory, bpf_dir)
    }

    fn of(file: File, path: &Path) -> Result<Option<Self>> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn unusable(state_dir: &Path, error: &io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root, or by the systemd unit",
        _ => "set another node.state_dir",
    };
    anyhow!("cannot keep state in {}: {error}; {remedy}", state_dir.display())
}

// === impl Saver ===

impl Saver {
    /// Starts the thread that writes.
    pub(super) fn start(state_dir: &Path) -> Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (path, seed_path) = (file(state_dir), seed_file(state_dir));
        let kept = kept_seed(state_dir);
        let failure = Arc::default();
        let free = Arc::new(watch::Sender::new(Some(Instant::now())));
        let (told, freed) = (Arc::clone(&failure), Arc::clone(&free));
        thread::Builder::new()
            .name("weir-state".to_owned())
            .spawn(move || write_all(&path, (&seed_path, kept), &queue, &told, &freed))
            .context("starting the thread that keeps the state")?;
        Ok(Self { jobs, free, failure })
    }

    /// Whether a state that is in no hurry may be handed over: each is a copy of everything, so
    /// they are not to pile up.
    pub(super) fn is_free(&self) -> bool {
        self.free.borrow().is_some_and(|from| from <= Instant::now())
    }

    /// Waits until [`Saver::is_free`]. Cancel safe.
    pub(super) async fn freed(&self) {
        let mut free = self.free.subscribe();
        loop {
            let from = *free.borrow_and_update();
            match from {
                Some(from) => return sleep_until(from.into()).await,
                // The sender is ours: it is there as long as we are.
                None => drop(free.changed().await),
            }
        }
    }

    /// Why the state is not kept at the moment, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a state soon.
    pub(super) fn save_soon(&self, state: State) {
        self.send(state, None);
    }

    /// Keeps a state, and returns when it is on disk (or when that failed, which is logged).
    pub(super) fn save_now(&self, state: State) {
        let (done, wait) = mpsc::channel();
        self.send(state, Some(done));
        let _ = wait.recv();
    }

    fn send(&self, state: State, done: Option<mpsc::Sender<()>>) {
        self.free.send_replace(None);
        // The thread ends only with the last sender.
        drop(self.jobs.send(Job { state, done }));
    }
}

fn write_all(
    path: &Path,
    (seed_path, mut kept): (&Path, Option<[u64; 2]>),
    queue: &mpsc::Receiver<Job>,
    failure: &Mutex<Option<String>>,
    free: &watch::Sender<Option<Instant>>,
) {
    while let Ok(first) = queue.recv() {
        let begun = Instant::now();
        let mut job = first;
        let mut waiting = Vec::new();
        waiting.extend(job.done.take());
        // Only the latest matters; whoever waits for an earlier one is served by it as well.
        while let Ok(next) = queue.try_recv() {
            job = next;
            waiting.extend(job.done.take());
        }
        let mut written = serde_json::to_vec_pretty(&job.state)
            .map_err(io::Error::other)
            .and_then(|content| replace(path, &content));
        let seed = job.state.tables.as_ref().map(|tables| tables.seed);
        if let (Ok(()), Some(seed)) = (&written, seed.filter(|seed| kept != Some(*seed))) {
            let [low, high] = seed;
            written = replace(seed_path, format!("[{low}, {high}]\n").as_bytes());
            kept = written.is_ok().then_some(seed);
        }
        let outcome = written
            .map_err(|error| format!("keeping the state in {} failed: {error}", path.display()));
        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = &outcome
            && failure.is_none()
        {
            error!("{error}");
        }
        *failure = outcome.err();
        drop(failure);
        free.send_replace(Some(Instant::now() + (begun.elapsed() * REST).min(REST_MAX)));
        drop(waiting);
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("state.json")
}

fn seed_file(state_dir: &Path) -> PathBuf {
    state_dir.join("seed.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { services: 1, backends: 2, ring_slots: 3, flows: 4 };
        let state = State {
            tables: Some(TablesId::new(limits, [5, 6])),
            core: Saved::default(),
            vrrp: Vec::new(),
        };
        let saver = Saver::start(directory.path()).unwrap();
        saver.save_soon(State::default());
        saver.save_now(state.clone());
        let (read, notices) = State::load(directory.path()).unwrap();
        assert_eq!((read.tables, read.core), (state.tables, state.core));
        assert_eq!(notices, Vec::<String>::new());
    }

    #[test]
    fn what_makes_no_sense_is_put_aside_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        let bad: [&[u8]; 4] = [b"{", b"\xff\xfe", b"{\"tables\": 7}", b""];
        for (n, content) in bad.iter().enumerate() {
            fs::write(&path, content).unwrap();
            let (read, notices) = State::load(directory.path()).unwrap();
            assert!(read.tables.is_none());
            let name = if n == 0 { "state.json.bad".into() } else { format!("state.json.bad.{n}") };
            assert!(notices[0].contains(&name), "{notices:?}");
            assert_eq!(fs::read(directory.path().join(name)).unwrap(), *content);
            assert!(!path.exists());
        }
        fs::create_dir(&path).unwrap();
        assert!(State::load(directory.path()).unwrap().1[0].contains("state.json.bad.4"));
    }

    #[test]
    fn the_secret_of_the_flow_hash_outlives_a_damaged_state() {
        let directory = tempfile::tempdir().unwrap();
        let saver = Saver::start(directory.path()).unwrap();
        for seed in [[1, u64::MAX], [3, 4]] {
            let tables = Some(TablesId::new(NO_TABLES, seed));
            saver.save_now(State { tables, ..State::default() });
            fs::write(file(directory.path()), "ruined").unwrap();
            let (read, notices) = State::load(directory.path()).unwrap();
            assert_eq!((read.tables.unwrap().seed, notices.len()), (seed, 1));
        }
        fs::write(file(directory.path()), "ruined").unwrap();
        fs::write(seed_file(directory.path()), "as well").unwrap();
        assert!(State::load(directory.path()).unwrap().0.tables.is_none());
    }

    #[test]
    fn a_state_that_cannot_be_written_is_said_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let saver = Saver::start(directory.path()).unwrap();
        let obstacle = directory.path().join("state.json.new");
        fs::create_dir(&obstacle).unwrap();
        saver.save_now(State::default());
        assert!(saver.failure().unwrap().contains("state.json failed"), "{:?}", saver.failure());
        fs::remove_dir(&obstacle).unwrap();
        saver.save_now(State::default());
        assert_eq!(saver.failure(), None);
    }

    #[tokio::test]
    async fn one_state_at_a_time_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let saver = Saver::start(directory.path()).unwrap();
        assert!(saver.is_free());
        // Whoever opens a pipe to write waits for a reader.
        let pipe = directory.path().join("state.json.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        saver.save_soon(State::default());
        assert!(!saver.is_free());
        let reader = File::open(&pipe).unwrap();
        saver.freed().await;
        assert!(saver.is_free());
        drop(reader);
    }

    #[test]
    fn one_daemon_has_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        assert!(lock.is_some());
        assert!(Lock::take(directory.path()).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(directory.path()).unwrap().is_some());
    }
}
