//! Other kernels: Debian's, booted under QEMU with Weir, its tests and their libraries.
//!
//! [`debian`] fetches a [`kernel`], [`image`] gathers what runs on it, [`qemu`] runs it. Nothing of
//! that needs root, KVM or a disk image; without KVM a machine boots in about five seconds.

mod archive;
mod debian;
pub(crate) mod guest;
mod image;
mod kernel;
mod qemu;
mod release;
pub(crate) mod suite;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::{
    image::Image,
    kernel::Kernel,
    qemu::{Accelerator, Machine, Settings},
    release::Release,
};
use crate::{packages, process, workspace};

/// What the harness runs, and the Debian package of each.
const PROGRAMS: [(&str, &str); 9] = [
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// `cargo xtask vm`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which kernel
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Release,
    /// What to run there, by its path or from PATH; without it, a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs a command on another kernel, and ends with its status.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    require()?;
    let built = crate::test::build_weir()?;
    let kernel = Kernel::prepare(arguments.kernel)?;
    let accelerator = Accelerator::find(&kernel)?;
    let image = Image::new()?;
    image.add_build(&built, "usr/bin/weir")?;
    let script = match arguments.command.split_first() {
        None => {
            "echo 'Weir is here. The machine ends with this shell, or with Ctrl-A X.'; exec sh -i\n"
                .to_owned()
        }
        Some((program, words)) => format!("exec {}\n", line(&add_command(&image, program)?, words)),
    };
    let limit = if arguments.command.is_empty() { "24h" } else { "1h" };
    let cpus = accelerator.safe_cpus();
    let settings = Settings { accelerator, cpus, memory_mib: 2048, limit };
    process::announce(&format!("Linux {} under {}", kernel.version, accelerator.name()));
    let end = Machine::new(&kernel, &image, &script, settings)?.run_here()?;
    if end.status != 0 {
        bail!("the command ended with status {}", end.status);
    }
    Ok(())
}

/// Installs what the harness needs, or says what is missing.
pub(crate) fn require() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the other kernels are Debian's for amd64, and what is built here does not run on \
             them; `cargo xtask test` runs on the kernel that this machine has"
        );
    }
    packages::ensure_programs(&PROGRAMS, "a virtual machine with another kernel")?;
    fs::create_dir_all(folder()).with_context(|| format!("making {}", folder().display()))?;
    remove_leftovers(&folder());
    Ok(())
}

/// Fetches the packages of kernels, those that are not there.
pub(crate) fn fetch(releases: &[Release]) -> Result<()> {
    require()?;
    releases.iter().try_for_each(|release| Kernel::fetch(*release).map(drop))
}

/// Fetches and unpacks kernels, those that are not there.
pub(crate) fn prepare(releases: &[Release]) -> Result<Vec<Kernel>> {
    require()?;
    releases.iter().map(|release| Kernel::prepare(*release)).collect()
}

/// Where kernels are kept.
fn folder() -> PathBuf {
    workspace().join("target/vm")
}

/// A folder for one run, which goes when it is dropped.
fn scratch(purpose: &str) -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{purpose}-{}-", std::process::id()))
        .tempdir_in(folder())
        .with_context(|| format!("making a folder for the {purpose}"))
}

/// Removes what killed runs left: the folders of [`scratch`] whose process is gone.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(owner) = owner(&name)
            && !Path::new("/proc").join(owner.to_string()).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that made a folder of [`scratch`].
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("image-").or_else(|| name.strip_prefix("machine-"))?;
    rest.split('-').next()?.parse().ok()
}

/// Puts the program into the image, if it comes from here, and returns its name there.
fn add_command(image: &Image, program: &str) -> Result<String> {
    if program.contains('/') {
        let path = Path::new(program);
        let file = path.file_name().with_context(|| format!("{program} names no file"))?;
        let name = format!("usr/bin/{}", file.to_string_lossy());
        image.add_program(path, &name)?;
        return Ok(format!("/{name}"));
    }
    if program != "weir"
        && let Some(path) = process::find_program(program)
    {
        image.add_program(&path, &format!("usr/bin/{program}"))?;
    }
    Ok(program.to_owned())
}

/// A command line for a shell.
fn line(program: &str, words: &[String]) -> String {
    let all = [program].into_iter().chain(words.iter().map(String::as_str));
    all.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        // Above the kernel's limit of process ids.
        let (dead, own) = ("image-4194305-x", format!("machine-{}-x", std::process::id()));
        for name in [dead, &own, "6.1"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        remove_leftovers(folder.path());
        assert!(!folder.path().join(dead).exists());
        assert!(folder.path().join(own).exists() && folder.path().join("6.1").exists());
    }

    #[test]
    fn words_reach_the_command_as_they_are() {
        let words = ["-c".to_owned(), "echo \"it's $HOME\"".to_owned()];
        let script = format!("exec {}", line("sh", &words));
        let mut shell = std::process::Command::new("sh");
        let output = shell.arg("-c").arg(script).env("HOME", "/h").output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's /h\n");
    }
}
