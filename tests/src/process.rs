//! Processes that end: within a time limit, or with their owner.

use std::{
    fmt, fs,
    fs::File,
    io::{Read, Seek},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// How much of a log is shown in an error.
const SHOWN_LINES: usize = 40;

/// A process in the background, the leader of its own process group, with its output in a file.
/// Dropping it kills the whole group.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command. Both its outputs are appended to `log`.
    ///
    /// # Errors
    ///
    /// The program or the log cannot be opened.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id, which is its group's too.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the whole group.
    ///
    /// # Errors
    ///
    /// The group is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(group(&self.child), signal)
            .with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills the whole group.
    pub fn kill(&mut self) {
        kill_group(&mut self.child);
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    ///
    /// It did not end within the limit (it is killed then), or not with status 0; with its log.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        let Some(status) = wait(&mut self.child, limit)? else {
            self.kill();
            bail!("{} did not end within {limit:?} of SIGTERM\n{}", self.name, self.log_tail());
        };
        ensure!(status.success(), "{} ended with {status}\n{}", self.name, self.log_tail());
        Ok(())
    }

    /// Waits until `ready` says yes.
    ///
    /// # Errors
    ///
    /// The process ended meanwhile, or the limit passed; with its log and the last refusal.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let Err(refusal) = ready() else { return Ok(()) };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}\n{}", self.name, self.log_tail());
            }
            if Instant::now() > end {
                let tail = self.log_tail();
                bail!("{} is not ready after {limit:?}: {refusal:#}\n{tail}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs (a stopped process does).
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// All that it wrote to its outputs.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The end of its log, with the file's name, for an error.
    fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.id())
    }
}

/// The last lines of a log file, with its name.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!("--- {}\n{}", log.display(), shown.join("\n"))
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// The program cannot be started, takes longer than the limit (its group is killed then), or fails;
/// with all its output.
pub fn run(command: Command, limit: Duration) -> Result<String> {
    let text = format!("{command:?}");
    let output = output(command, limit)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!("{text}: {}\n{stderr}{stdout}", output.status))
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
///
/// The program cannot be started, or takes longer than the limit (its group is killed then).
pub fn output(mut command: Command, limit: Duration) -> Result<Output> {
    // Files, not pipes: nobody has to read them while the program writes.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        kill_group(&mut child);
    }
    let output = Output {
        status: status.unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL)),
        stdout: contents(&mut stdout)?,
        stderr: contents(&mut stderr)?,
    };
    if status.is_some() {
        return Ok(output);
    }
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(anyhow!("{command:?} took longer than {limit:?}\n{stderr}{stdout}"))
}

fn contents(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits for a child to end; `None` if the limit passed first.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_group(child: &mut Child) {
    // Also when the leader has ended: members of its group may live on. As long as they do, or
    // the leader is not waited for, the kernel does not give the number away.
    let _ = killpg(group(child), Signal::SIGKILL);
    let _ = child.wait();
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}
