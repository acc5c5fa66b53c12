//! What remains when a lab's process is killed, and how the next lab removes it.
//!
//! Everything a lab makes carries its [`LabName`], which has the process id of its owner.

use std::{
    env, fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{namespace, process};

/// What all names of all labs begin with.
const PREFIX: &str = "weir-lab-";

/// Where the daemons of labs pin their programs: a bpffs.
pub(crate) const BPF_DIRECTORY: &str = "/sys/fs/bpf";

/// A name that no other lab on this machine has: `weir-lab-PID-COUNTER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabName(String);

impl LabName {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self(format!("{PREFIX}{}-{number}", std::process::id()))
    }

    pub(crate) fn namespace(&self, role: &str) -> String {
        format!("{self}-{role}")
    }

    pub(crate) fn bpf_directory(&self, role: &str) -> PathBuf {
        Path::new(BPF_DIRECTORY).join(format!("{self}-{role}"))
    }

    fn owns(&self, entry: &str) -> bool {
        entry.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('-'))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes a lab's namespaces, with all that still runs in them, and its pins. Does as much as it
/// can: there is nobody to tell of a failure.
pub(crate) fn remove_lab(name: &LabName) {
    remove_where(|entry| name.owns(entry), &[Path::new(namespace::DIRECTORY), bpf_path()]);
}

/// Removes what labs left whose processes are dead.
pub(crate) fn remove_leftovers() {
    let temporary = env::temp_dir();
    remove_where(
        |entry| owner(entry).is_some_and(is_dead),
        &[Path::new(namespace::DIRECTORY), bpf_path(), &temporary],
    );
}

fn bpf_path() -> &'static Path {
    Path::new(BPF_DIRECTORY)
}

fn remove_where(chosen: impl Fn(&str) -> bool, directories: &[&Path]) {
    for directory in directories {
        for name in entries(directory).into_iter().filter(|name| chosen(name)) {
            if *directory == Path::new(namespace::DIRECTORY) {
                remove_namespace(&name);
            } else {
                let _ = fs::remove_dir_all(directory.join(&name));
            }
        }
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The process id in a lab's name.
fn owner(entry: &str) -> Option<Pid> {
    let (pid, _) = entry.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok().map(Pid::from_raw)
}

fn is_dead(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}

/// A namespace lives as long as a process in it, so they go first.
fn remove_namespace(name: &str) {
    if let Ok(inhabitants) = inhabitants(&Path::new(namespace::DIRECTORY).join(name)) {
        for pid in inhabitants {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    let mut delete = Command::new("ip");
    delete.args(["netns", "delete", name]);
    let _: Result<_> = process::run(delete, Duration::from_secs(10));
}

/// The processes whose network namespace is the one at `path`; never this one.
fn inhabitants(path: &Path) -> io::Result<Vec<Pid>> {
    let namespace = fs::metadata(path)?;
    let lives_there = |pid: &Pid| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|other| (other.ino(), other.dev()) == (namespace.ino(), namespace.dev()))
    };
    let processes = entries(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    Ok(processes.map(Pid::from_raw).filter(|pid| *pid != Pid::this()).filter(lives_there).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_owns_its_names_and_not_those_of_a_longer_number() {
        let lab = LabName("weir-lab-17-1".to_owned());
        assert!(lab.owns("weir-lab-17-1-client"));
        assert!(!lab.owns("weir-lab-17-12-client"));
    }

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("weir-lab-17-1-client"), Some(Pid::from_raw(17)));
        assert_eq!(owner("weir-lab-"), None);
        assert_eq!(owner("production"), None);
    }
}
