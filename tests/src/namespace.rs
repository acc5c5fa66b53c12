//! A network namespace with a name under `/run/netns`.

use std::{
    ffi::OsStr,
    fmt,
    fs::File,
    net::IpAddr,
    os::fd::OwnedFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
};

use crate::{
    process::{self, Process},
    sys,
};

/// How long a command may take unless told otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Where `ip netns` keeps the names.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A handle on a namespace of a lab. Copies are cheap and name the same namespace; it ends with
/// its lab.
#[derive(Clone)]
pub struct Namespace {
    role: Arc<str>,
    name: Arc<str>,
    handle: Arc<OwnedFd>,
    directory: Arc<Path>,
}

impl Namespace {
    /// Opens a namespace that exists. Its processes' logs go to `directory`.
    pub(crate) fn open(name: &str, role: &str, directory: PathBuf) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let handle = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            role: role.into(),
            name: name.into(),
            handle: Arc::new(handle.into()),
            directory: directory.into(),
        })
    }

    /// What it is in its lab: `client`, `balancer`, `b1`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for the files of what runs here; it ends with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run inside. Only the network differs from outside: `/sys/class/net`
    /// still shows the outer interfaces, `/sys/fs/bpf` is the machine's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_in(&mut command, Arc::clone(&self.handle));
        command
    }

    /// Runs a program inside, with its arguments, and returns its standard output.
    ///
    /// # Errors
    ///
    /// It cannot be started, fails, or takes more than half a minute; with all its output.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        self.run_within(COMMAND_LIMIT, words)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    ///
    /// As for [`Namespace::run`].
    pub fn run_within<S: AsRef<OsStr>>(&self, limit: Duration, words: &[S]) -> Result<String> {
        let [program, arguments @ ..] = words else { bail!("no program to run in {self}") };
        let mut command = self.command(program);
        command.args(arguments);
        process::run(command, limit).with_context(|| format!("in {self}"))
    }

    /// Starts a program inside in the background, its output in `NAME.log` of the
    /// [directory](Self::directory).
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, name: &str, words: &[S]) -> Result<Process> {
        let [program, arguments @ ..] = words else { bail!("no program to start in {self}") };
        let mut command = self.command(program);
        command.args(arguments);
        let log = self.directory.join(format!("{name}.log"));
        Process::start(&format!("{name} in {self}"), command, &log)
    }

    /// Calls `work` on a thread inside. Sockets that it opens stay inside.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.move_this_thread()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Whether one of its interfaces has an address.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn has_address(&self, wanted: IpAddr) -> Result<bool> {
        let found = self.enter(|| -> nix::Result<bool> {
            Ok(getifaddrs()?.filter_map(|interface| interface.address).any(
                |address| match wanted {
                    IpAddr::V4(v4) => address.as_sockaddr_in().is_some_and(|a| a.ip() == v4),
                    IpAddr::V6(v6) => address.as_sockaddr_in6().is_some_and(|a| a.ip() == v6),
                },
            ))
        })?;
        found.with_context(|| format!("list the addresses of {self}"))
    }

    /// Moves the calling thread inside, for good: only for threads that end here.
    pub(crate) fn move_this_thread(&self) -> Result<()> {
        setns(&*self.handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {self}"))
    }

    /// Writes kernel parameters below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// The kernel has no such parameter, or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value)
                    .with_context(|| format!("write {value} to {} in {self}", path.display()))?;
            }
            Ok(())
        })?
    }

    /// Runs commands of `ip`, one a line, in one process.
    pub(crate) fn ip(&self, lines: &[String]) -> Result<()> {
        let script = self.directory.join("ip.batch");
        ip_batch(self.command("ip"), &script, lines).with_context(|| format!("in {self}"))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({self})")
    }
}

/// Runs commands of `ip`, one a line, in one process.
pub(crate) fn ip_batch(mut ip: Command, script: &Path, lines: &[String]) -> Result<()> {
    std::fs::write(script, lines.join("\n") + "\n")
        .with_context(|| format!("write {}", script.display()))?;
    ip.arg("-batch").arg(script);
    process::run(ip, COMMAND_LIMIT).with_context(|| lines.join("\n"))?;
    Ok(())
}
