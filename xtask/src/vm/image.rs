//! What a machine has beside its kernel: a first process, a shell, programs with their libraries.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{archive, kernel::Kernel};
use crate::process;

/// The first process.
const INIT: &str = include_str!("init.sh");
/// Users that servers ask for by name.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      www-data:x:33:33:www-data:/:/bin/false\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";
/// What every machine is good for, beside busybox: what the lab runs, and what shows the kernel's
/// state.
const TOOLS: [&str; 9] =
    ["bpftool", "chrt", "curl", "ethtool", "ip", "ipvsadm", "nginx", "taskset", "wrk"];

/// A file system in the making. It goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    /// A system with a shell, busybox, and of the lab's programs those that this machine has.
    pub(crate) fn new() -> Result<Self> {
        let image = Self { folder: super::scratch("image")? };
        image.add_text("init", INIT, 0o755)?;
        image.add_text("etc/passwd", PASSWD, 0o644)?;
        image.add_text("etc/group", GROUP, 0o644)?;
        let busybox = process::find_program("busybox").context("there is no busybox")?;
        image.add_program(&busybox, "bin/busybox")?;
        // Not busybox's shell, which would take its own applets for programs such as `ip`.
        image.add_program(Path::new("/bin/sh"), "bin/sh")?;
        for tool in TOOLS {
            if let Some(path) = process::find_program(tool) {
                image.add_program(&path, &format!("usr/bin/{tool}"))?;
            }
        }
        Ok(image)
    }

    /// Adds a program under another name, with the libraries that it asks for.
    pub(crate) fn add_program(&self, path: &Path, name: &str) -> Result<()> {
        let path = fs::canonicalize(path).with_context(|| format!("no {}", path.display()))?;
        self.add_file(&path, name)?;
        for library in libraries(&path)? {
            let inside = library.strip_prefix("/").unwrap_or(&library);
            if !self.folder.path().join(inside).exists() {
                self.add_file(&library, &inside.to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// Adds one of our own builds, without its symbols, which are most of it.
    pub(crate) fn add_build(&self, path: &Path, name: &str) -> Result<()> {
        self.add_program(path, name)?;
        let inside = self.folder.path().join(name);
        process::run(Command::new("strip").arg("--strip-unneeded").arg(inside))
    }

    /// Adds a file as it is.
    pub(crate) fn add_file(&self, path: &Path, name: &str) -> Result<()> {
        let target = self.place(name)?;
        fs::copy(path, &target).with_context(|| format!("copying {}", path.display()))?;
        Ok(())
    }

    /// Adds a file of these words.
    pub(crate) fn add_text(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let target = self.place(name)?;
        fs::write(&target, text).with_context(|| format!("writing {}", target.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Packs everything, with the kernel's modules, for QEMU to load.
    pub(crate) fn pack(&self, kernel: &Kernel, archive: &Path) -> Result<()> {
        let own = archive.with_extension("own");
        archive::pack(self.folder.path(), &own)?;
        archive::concatenate(&[&own, &kernel.modules], archive)?;
        fs::remove_file(own).context("removing a half of the archive")
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let target = self.folder.path().join(name.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        Ok(target)
    }
}

/// The shared libraries of a program and the loader that finds them; none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in what ldd(1) prints.
fn paths(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_where_the_loader_finds_them() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(text), expected.map(PathBuf::from));
        assert_eq!(paths("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
