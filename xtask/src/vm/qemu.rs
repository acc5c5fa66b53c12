//! A virtual machine: started, followed, ended.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{image::Image, kernel::Kernel};
use crate::process;

const QEMU: &str = "qemu-system-x86_64";
/// How long KVM may take to show that it works, in the words of timeout(1). The kernel needs two
/// seconds; where KVM is offered and broken, it hangs for good.
const TRIAL_LIMIT: &str = "15s";
/// The kernel's. It counts the timer's ticks during a wait of its own making, and panics if there are
/// too few; on a busy host emulation brings too few.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 mitigations=off no_timer_check";
/// Lines of the kernel's console that an error shows.
const SHOWN_LINES: usize = 25;

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU, in software: slow, and everywhere.
    Tcg,
}

/// What a machine is like, and how long it may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: u8,
    pub(crate) memory_mib: u32,
    /// In the words of timeout(1).
    pub(crate) limit: &'static str,
}

/// How the command of a machine ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct End {
    /// Its exit status.
    pub(crate) status: u8,
    /// What it wrote to the file that `WEIR_REPORT` names.
    pub(crate) report: String,
}

/// A machine that can be started, once.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    kernel: Kernel,
    settings: Settings,
}

impl Accelerator {
    /// KVM where a kernel boots under it, else software.
    ///
    /// Found out by trying, once a boot: a `/dev/kvm` that can be opened may still hang.
    pub(crate) fn find(kernel: &Kernel) -> Result<Self> {
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let note = super::folder().join("accelerator");
        let noted = fs::read_to_string(&note).unwrap_or_default();
        if let Some(name) = noted.strip_prefix(boot.trim()) {
            return Ok(if name.trim() == Self::Kvm.name() { Self::Kvm } else { Self::Tcg });
        }
        process::announce("trying whether KVM works here");
        let found = if Self::boots_under_kvm(kernel) { Self::Kvm } else { Self::Tcg };
        fs::write(note, format!("{} {}", boot.trim(), found.name()))?;
        Ok(found)
    }

    /// As QEMU calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// How many processors a machine gets whose kernel must not fall.
    ///
    /// Kernels rewrite their own code while other processors run it (static keys, the dispatchers of
    /// BPF): whoever meets the breakpoint that is there meanwhile is sent around it. Before QEMU 8.1
    /// emulated processors that run side by side may meet it after it is gone and forgotten
    /// ("accel/tcg: Always lock pages before translation" mended it), and the kernel panics. One
    /// alone cannot.
    pub(crate) fn safe_cpus(self) -> u8 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }

    /// Without a root file system the kernel panics, which ends the machine.
    fn boots_under_kvm(kernel: &Kernel) -> bool {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=2s", TRIAL_LIMIT, QEMU, "-accel", "kvm", "-cpu", "host"]);
        command.args(["-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-kernel"]);
        command.arg(&kernel.image).args(["-append", "panic=-1 quiet"]);
        command.output().is_ok_and(|output| output.status.success())
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Five-level page tables cost software emulation a tenth of its speed.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        }
    }
}

impl Machine {
    /// Prepares a machine with a kernel and files, whose `/command` is this shell script.
    pub(crate) fn new(
        kernel: &Kernel,
        image: &Image,
        command: &str,
        settings: Settings,
    ) -> Result<Self> {
        image.add_text("command", command, 0o644)?;
        let folder = super::scratch("machine")?;
        image.pack(kernel, &folder.path().join("initrd"))?;
        Ok(Self { folder, kernel: kernel.clone(), settings })
    }

    /// Runs it on our own terminal.
    pub(crate) fn run_here(&self) -> Result<End> {
        // With QEMU's monitor in between, so that Ctrl-C reaches the command and Ctrl-A X ends all.
        let mut command = self.command(&["--foreground"], "mon:stdio");
        let status = command.status().context("cannot start setpriv")?;
        self.end(status.code())
    }

    /// Runs it, and gives each line of its output to `see`.
    pub(crate) fn follow(&self, mut see: impl FnMut(&str)) -> Result<End> {
        let mut command = self.command(&[], "stdio");
        command.stdin(std::process::Stdio::null());
        let succeeded = process::follow(&mut command, |line| see(line.trim_end_matches('\r')))?;
        self.end(Some(i32::from(!succeeded)))
    }

    fn command(&self, options: &[&str], terminal: &str) -> Command {
        let Settings { accelerator, cpus, memory_mib, limit } = self.settings;
        // A machine ends with us, whatever ends us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout"]);
        command.args(options).args(["--kill-after=5s", limit, QEMU]);
        command.args(accelerator.arguments());
        command.args(["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(&self.kernel.image);
        command.arg("-initrd").arg(self.folder.path().join("initrd"));
        command.args(["-append", COMMAND_LINE]);
        command.arg("-serial").arg(format!("file:{}", self.console().display()));
        command.args(["-serial", terminal]);
        command.arg("-serial").arg(format!("file:{}", self.report().display()));
        command
    }

    fn end(&self, status: Option<i32>) -> Result<End> {
        let report = fs::read_to_string(self.report()).unwrap_or_default();
        if let Some(end) = parse(&report) {
            return Ok(end);
        }
        let limit = self.settings.limit;
        let release = self.kernel.release;
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        let how = match status {
            Some(124 | 137) => format!("was not done after {limit}"),
            _ => "ended before its command did".to_owned(),
        };
        bail!("the machine with kernel {release} {how}; its console said last:\n{shown}")
    }

    fn console(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report")
    }
}

/// The report without its last line, which the machine's first process writes.
fn parse(text: &str) -> Option<End> {
    let text = text.replace('\r', "");
    let (report, last) = match text.trim_end().rsplit_once('\n') {
        Some((report, last)) => (report, last),
        None => ("", text.trim_end()),
    };
    let status = last.strip_prefix("exit ")?.parse().ok()?;
    Some(End { status, report: report.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_report_is_the_status() {
        let end = |status, report: &str| Some(End { status, report: report.to_owned() });
        assert_eq!(parse("{\"a\": 1}\n{}\nexit 0\n"), end(0, "{\"a\": 1}\n{}"));
        assert_eq!(parse("exit 3\r\n"), end(3, ""));
        // A machine that died says nothing at its end.
        assert_eq!(parse("{}\n"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("exit soon\n"), None);
    }
}
