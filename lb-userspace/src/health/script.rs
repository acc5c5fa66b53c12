//! `script`: does a program of the operator's say that the backend is well?
//!
//! The program runs without a shell, with an environment of its own, in a process group of its
//! own. What it starts ends with it: a check that leaves something behind at every beat would fill
//! the machine.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    future::pending,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use crate::resources;

use super::{
    Target,
    reason::{Failure, first_line},
};

/// How much of the output is kept; the rest is read and forgotten, so that the program is not held
/// up.
const MAX_OUTPUT_BYTES: usize = 4 << 10;

/// How long to wait for what should be immediate: the end of a killed process, the end of the
/// output of a process that is gone.
const GRACE: Duration = Duration::from_millis(100);

/// What programs find their helpers in if the daemon itself was started without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the program; exit status 0 is healthy. When its time is up it is killed, and all that it
/// started with it. `turn` is given back when no process is left.
pub(super) async fn check(
    argv: &[String],
    target: &Target,
    turn: OwnedSemaphorePermit,
) -> Result<(), Failure> {
    run(argv, &environment(target), target.check.timeout, turn).await
}

/// The same with any environment.
pub(super) async fn run(
    argv: &[String],
    variables: &[(&'static str, OsString)],
    limit: Duration,
    turn: OwnedSemaphorePermit,
) -> Result<(), Failure> {
    let (mut group, mut output) = Group::start(argv, variables)?;
    let Ok(status) = timeout(limit, group.wait(&mut output)).await else {
        group.end(turn).await;
        return Err(Failure::Timeout(limit));
    };
    group.kill();
    // What the program wrote before it ended is there to be read. A process that has left the
    // group may hold the pipe open; nobody waits for that one.
    let _ = timeout(GRACE, output.read_to_end()).await;
    judge(status?, &output)
}

fn judge(status: ExitStatus, output: &Output) -> Result<(), Failure> {
    let line = first_line(&output.start);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Exit { code, line }),
        (None, signal) => Err(Failure::Killed { signal: signal.unwrap_or_default(), line }),
    }
}

/// The program and all that it started. Dropping it kills them, so that a check that is stopped
/// leaves nothing; the runtime collects the exit status then.
struct Group {
    leader: Child,
    id: Pid,
}

/// What the program writes, to standard output and standard error alike, in its order.
struct Output {
    pipe: pipe::Receiver,
    /// The first [`MAX_OUTPUT_BYTES`].
    start: Vec<u8>,
}

// === impl Group ===

impl Group {
    fn start(
        argv: &[String],
        variables: &[(&'static str, OsString)],
    ) -> Result<(Self, Output), Failure> {
        let (program, arguments) = argv.split_first().ok_or_else(|| not_started("", None))?;
        Self::spawn(program, arguments, variables)
            .map_err(|error| not_started(program, error.raw_os_error()))
    }

    fn spawn(
        program: &str,
        arguments: &[String],
        variables: &[(&'static str, OsString)],
    ) -> io::Result<(Self, Output)> {
        let (read, write) = io::pipe()?;
        // The command holds the writing ends and goes at the end of this function; else the
        // output would never end.
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write)
            .process_group(0)
            .kill_on_drop(true);
        let pipe = pipe::Receiver::from_owned_fd(read.into())?;
        let leader = command.spawn()?;
        let id = leader.id().ok_or(Errno::ESRCH)?;
        // A program that has ended already needs nothing.
        let _ = resources::restore(id);
        let id = id.try_into().map_err(|_| Errno::ESRCH)?;
        Ok((
            Self { leader, id: Pid::from_raw(id) },
            Output { pipe, start: Vec::with_capacity(MAX_OUTPUT_BYTES) },
        ))
    }

    /// Waits for the program to end, reading what it writes.
    async fn wait(&mut self, output: &mut Output) -> io::Result<ExitStatus> {
        let drained = async {
            output.read_to_end().await;
            pending::<Infallible>().await
        };
        tokio::select! {
            status = self.leader.wait() => status,
            never = drained => match never {},
        }
    }

    /// Kills all processes of the group.
    ///
    /// The leader may be gone and collected. While any other process of the group lives, the
    /// kernel gives its number to nobody else; if none lives there is nothing to kill, unless the
    /// number came round again in the microseconds since.
    fn kill(&self) {
        // ESRCH: none is left.
        let _ = killpg(self.id, Signal::SIGKILL);
    }

    /// Kills all processes and waits for the leader's end. One that even SIGKILL does not end, as
    /// in a hung file system, keeps its turn, so that no more than so many can gather.
    async fn end(mut self, turn: OwnedSemaphorePermit) {
        self.kill();
        if timeout(GRACE, self.leader.wait()).await.is_err() {
            tokio::spawn(async move {
                let _ = self.leader.wait().await;
                drop(turn);
            });
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not once more after the leader was collected: its number is not ours for ever.
        if self.leader.id().is_some() {
            self.kill();
        }
    }
}

// === impl Output ===

impl Output {
    /// Reads to the end, keeping the beginning. Can be dropped and called again.
    async fn read_to_end(&mut self) {
        let mut buffer = [0; 1024];
        // An error of a pipe's reading end is as good as its end.
        while let Ok(read @ 1..) = self.pipe.read(&mut buffer).await {
            let room = MAX_OUTPUT_BYTES - self.start.len();
            self.start.extend_from_slice(&buffer[..read.min(room)]);
        }
    }
}

fn environment(target: &Target) -> [(&'static str, OsString); 7] {
    [
        search_path(),
        ("WEIR_SERVICE", target.id.service.as_str().into()),
        ("WEIR_BACKEND", target.id.backend.as_str().into()),
        ("WEIR_ADDRESS", target.address.to_string().into()),
        ("WEIR_PORT", target.check.port.to_string().into()),
        ("WEIR_VIP", target.service_address.to_string().into()),
        ("WEIR_VIP_PORT", target.service_port.to_string().into()),
    ]
}

/// What every program gets.
pub(super) fn search_path() -> (&'static str, OsString) {
    ("PATH", env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
}

fn not_started(program: &str, errno: Option<i32>) -> Failure {
    // Without a number: no program is named, or it has a zero byte in it.
    let errno = errno.map_or(Errno::EINVAL, Errno::from_raw);
    Failure::Start { program: program.to_owned(), errno }
}

#[cfg(test)]
mod tests;
