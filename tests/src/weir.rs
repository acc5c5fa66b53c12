//! A balancer, and the daemon on it.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    Namespace, Process, Response, Service,
    http::{self, Target},
    process,
    sweep::BPF_DIRECTORY,
};

/// Where the daemon's admin endpoint listens, inside the namespace.
const ADMIN_PORT: u16 = 9750;
/// Loading the program takes seconds at worst; a busy machine under software emulation, a minute.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A machine for the daemon.
#[derive(Debug, Clone)]
pub struct Balancer {
    namespace: Namespace,
    addresses: (Ipv4Addr, Ipv6Addr),
    two_networks: bool,
    pins: PathBuf,
}

/// A daemon. When it is dropped it is stopped, and its program is taken out of the kernel.
#[derive(Debug)]
pub struct Weir {
    balancer: Balancer,
    binary: PathBuf,
    process: Process,
}

// === impl Balancer ===

impl Balancer {
    pub(crate) fn new(
        namespace: Namespace,
        addresses: (Ipv4Addr, Ipv6Addr),
        two_networks: bool,
        pins: PathBuf,
    ) -> Self {
        Self { namespace, addresses, two_networks, pins }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its own address where the clients are.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.0
    }

    /// Where its program and tables are pinned.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Its own IPv6 address there.
    pub fn address6(&self) -> Ipv6Addr {
        self.addresses.1
    }

    /// Its interfaces: where the clients are, and with two networks, where the backends are.
    pub fn interfaces(&self) -> &'static [&'static str] {
        if self.two_networks { &["eth0", "eth1"] } else { &["eth0"] }
    }

    /// A configuration file for the daemon here. Other sections may be appended to it.
    pub fn config(&self, services: &[Service]) -> String {
        let mut text = format!(
            "[node]\nname = \"{name}\"\nstate_dir = \"{state}\"\nbpf_dir = \"{pins}\"\n\n\
             [control]\nsocket = \"{socket}\"\n\n\
             [admin]\nlisten = \"127.0.0.1:{ADMIN_PORT}\"\n\n\
             [limits]\nservices = 64\nbackends = 256\nring_slots = 1048576\nflows = 65536\n",
            name = self.namespace.role(),
            state = self.file("state").display(),
            pins = self.pins.display(),
            socket = self.file("weir.sock").display(),
        );
        for interface in self.interfaces() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n[[interface]]\nname = \"{interface}\"\nmode = \"native\"\n");
        }
        for service in services {
            let _ = write!(text, "\n{service}");
        }
        text
    }

    /// Starts the daemon with a configuration, and returns when it is ready.
    ///
    /// The program is the one that the variable `WEIR_BIN` names, else the one that was built
    /// beside the running program.
    ///
    /// # Errors
    ///
    /// There is no such program, a daemon runs here already, or the new one ends or is not ready in time; with its log.
    pub fn start_weir(&self, config: &str) -> Result<Weir> {
        self.launched(&find_binary()?, config, &[])
    }

    /// Like [`start_weir`](Self::start_weir), with more options of `weir run`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start_weir_with(&self, config: &str, options: &[&str]) -> Result<Weir> {
        let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        self.launched(&find_binary()?, config, &options)
    }

    /// Like [`start_weir`](Self::start_weir), with a certain program.
    pub(crate) fn start_weir_at(&self, binary: &Path, config: &str) -> Result<Weir> {
        self.launched(binary, config, &[])
    }

    fn launched(&self, binary: &Path, config: &str, options: &[&OsStr]) -> Result<Weir> {
        mount_bpffs()?;
        self.write_config(config)?;
        let process = self.launch(binary, options)?;
        Ok(Weir { balancer: self.clone(), binary: binary.to_owned(), process })
    }

    fn launch(&self, binary: &Path, options: &[&OsStr]) -> Result<Process> {
        // Its answers would pass for the new one's.
        ensure!(self.admin("/readyz").is_err(), "a daemon runs on {} already", self.namespace);
        let config = self.config_path();
        let run = [binary.as_os_str(), "run".as_ref(), "--config".as_ref(), config.as_os_str()];
        // The object under test, if it is not the one in the program.
        let object =
            env::var_os("WEIR_EBPF_OBJECT").filter(|_| !options.contains(&OsStr::new("--object")));
        let object: Vec<&OsStr> =
            object.iter().flat_map(|path| [OsStr::new("--object"), path]).collect();
        let words = [&run, options, &object].concat();
        let mut process = self.namespace.spawn("weir", &words)?;
        process.wait_until(START_LIMIT, || {
            let answer = self.admin("/readyz")?;
            ensure!(answer.status == 200, "/readyz says {answer}");
            Ok(())
        })?;
        Ok(process)
    }

    fn admin(&self, path: &str) -> Result<Response> {
        let target = Target::new((Ipv4Addr::LOCALHOST, ADMIN_PORT).into());
        let (status, body) =
            self.namespace.enter(|| http::request(target, path, COMMAND_LIMIT))??;
        Ok(Response { status, body })
    }

    fn write_config(&self, config: &str) -> Result<()> {
        let path = self.config_path();
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))
    }

    fn config_path(&self) -> PathBuf {
        self.file("weir.toml")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.namespace.directory().join(name)
    }
}

// === impl Weir ===

impl Weir {
    /// Where it runs.
    pub(crate) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Runs another command of the program with the daemon's configuration, and returns what it
    /// prints.
    ///
    /// # Errors
    ///
    /// It fails or takes more than half a minute; with all its output.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = self.balancer.namespace.command(&self.binary);
        command.args(arguments).arg("--config").arg(self.balancer.config_path());
        process::run(command, COMMAND_LIMIT)
    }

    /// Runs a command that prints JSON.
    ///
    /// # Errors
    ///
    /// As for [`Weir::cli`], or it prints something else.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<serde_json::Value> {
        let mut words: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        words.push("--json".as_ref());
        let text = self.cli(&words)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs `weir doctor`, and returns its exit status with what it prints.
    ///
    /// # Errors
    ///
    /// It takes more than half a minute, or a signal ends it.
    pub fn doctor(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = self.balancer.namespace.command(&self.binary);
        command.arg("doctor").args(arguments).arg("--config").arg(self.balancer.config_path());
        let output = process::output(command, COMMAND_LIMIT)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code().context("weir doctor was killed")?, text))
    }

    /// Gets a path of its admin endpoint, e.g. `/metrics`.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn admin(&self, path: &str) -> Result<Response> {
        self.balancer.admin(path).with_context(|| format!("get {path} of the admin endpoint"))
    }

    /// Replaces the configuration and reloads it.
    ///
    /// # Errors
    ///
    /// The daemon refuses it; with what it says.
    pub fn reload(&self, config: &str) -> Result<String> {
        self.balancer.write_config(config)?;
        self.cli(&["reload"])
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Replaces the configuration, of which the daemon hears nothing before it reloads or starts.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.balancer.write_config(config)
    }

    /// Kills it (SIGKILL). Its program stays in the kernel.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to leave in order (SIGTERM), and waits for that.
    ///
    /// # Errors
    ///
    /// It does not leave within half a minute, or not with status 0; with its log.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_LIMIT)
    }

    /// Starts it again after [`Weir::kill`] or [`Weir::stop`], and returns when it is ready.
    ///
    /// # Errors
    ///
    /// It runs, or as for [`Balancer::start_weir`].
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.process.is_running()?, "the daemon runs");
        self.process = self.balancer.launch(&self.binary, &[])?;
        Ok(())
    }

    /// The same with another eBPF object than the one built in.
    ///
    /// # Errors
    ///
    /// As for [`Weir::start`].
    pub fn start_with_object(&mut self, object: &Path) -> Result<()> {
        ensure!(!self.process.is_running()?, "the daemon runs");
        let options = ["--object".as_ref(), object.as_os_str()];
        self.process = self.balancer.launch(&self.binary, &options)?;
        Ok(())
    }

    /// Stops it in order and starts it again.
    ///
    /// # Errors
    ///
    /// As for [`Weir::stop`] and [`Weir::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// All that it logged, over all its starts.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // There is nobody to tell of a failure; what stays all the same, the lab's end removes.
        let _ = self.stop();
        let _ = self.cli(&["detach"]);
        let _ = fs::remove_dir_all(&self.balancer.pins);
    }
}

// === helpers ===

/// The daemon pins its program in the machine's bpffs, which containers often lack.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    if mounts.lines().any(|mount| mount.split(' ').nth(1) == Some(BPF_DIRECTORY)) {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf", BPF_DIRECTORY]);
    process::run(mount, COMMAND_LIMIT).map(drop)
}

pub(crate) fn find_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEIR_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "WEIR_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    // A program is in target/PROFILE, a test one below, in deps.
    let running = env::current_exe().context("find the running program")?;
    let mut candidates = running.ancestors().skip(1).take(2).map(|place| place.join("weir"));
    let binary = candidates.find(|path| path.is_file()).with_context(|| {
        format!("no `weir` beside {}: run `cargo build --bin weir`", running.display())
    })?;
    refuse_stale(&binary)?;
    Ok(binary)
}

/// Cargo builds the tests without the daemon that they start; one that is older than its sources
/// would pass or fail for what is not there any more.
fn refuse_stale(binary: &Path) -> Result<()> {
    // Cargo's list of what it was built from, as a rule of a makefile.
    let Ok(rule) = fs::read_to_string(binary.with_extension("d")) else { return Ok(()) };
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let built = modified(binary).with_context(|| format!("look at {}", binary.display()))?;
    let newer = sources(&rule).find(|source| modified(source).is_ok_and(|time| time > built));
    ensure!(
        newer.is_none(),
        "{} is older than {}: run `cargo build --bin weir`, or the tests by `cargo xtask test`",
        binary.display(),
        newer.unwrap_or_default().display()
    );
    Ok(())
}

/// The files behind the colon; a space in a name stands behind a backslash.
fn sources(rule: &str) -> impl Iterator<Item = PathBuf> {
    const SPACE: &str = "\u{1}";
    let files = rule.split_once(": ").map_or("", |(_, files)| files).replace("\\ ", SPACE);
    let paths: Vec<PathBuf> =
        files.split_whitespace().map(|path| path.replace(SPACE, " ").into()).collect();
    paths.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_off_cargos_rule() {
        let paths: Vec<_> = sources("/t/weir: /s/a.rs /s/two\\ words.rs\n").collect();
        assert_eq!(paths, [Path::new("/s/a.rs"), Path::new("/s/two words.rs")]);
        assert_eq!(sources("").count(), 0);
    }

    #[test]
    fn a_daemon_older_than_its_sources_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [binary, source] = ["weir", "a.rs"].map(|name| folder.path().join(name));
        for file in [&binary, &source] {
            fs::write(file, "").unwrap();
        }
        fs::write(binary.with_extension("d"), format!("weir: {}\n", source.display())).unwrap();
        let set = |path: &Path, seconds| {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        set(&binary, 2_000);
        set(&source, 1_000);
        refuse_stale(&binary).unwrap();
        set(&source, 3_000);
        let error = refuse_stale(&binary).unwrap_err().to_string();
        assert!(error.contains("a.rs") && error.contains("cargo build"), "{error}");
    }
}
