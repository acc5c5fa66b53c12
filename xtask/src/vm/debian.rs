//! Kernels as Debian packages, fetched by apt with lists and state of its own: the machine's own
//! sources, keys and packages stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::release::Release;
use crate::{packages, process};

/// Where Debian is found if the machine's own sources name no mirror of it.
const MIRROR: &str = "http://deb.debian.org/debian";
/// Debian's own keys, also on systems that come from it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on the current kernel's.
const META_PACKAGE: &str = "linux-image-amd64";
/// When an `apt-get` that still runs is ended: a hundred megabytes on a slow line.
const FETCH_LIMIT: &str = "5m";
/// How old the list of a suite that moves may be.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// The packages of one kernel: its image and, where they come apart, its modules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Packages {
    /// As in `/lib/modules`: `6.1.0-50-amd64`.
    pub(crate) version: String,
    /// The `.deb` files.
    pub(crate) files: Vec<PathBuf>,
}

/// Fetches a kernel's packages into a folder, unless they are there.
///
/// A suite that moves is asked once a week; if it does not answer, what is there will do.
pub(crate) fn fetch(release: Release, folder: &Path) -> Result<Packages> {
    let kept = kept(folder);
    if let Some(kept) = &kept
        && !(release.moves() && is_stale(folder))
    {
        return Ok(kept.clone());
    }
    match (fetch_anew(release, folder), kept) {
        (Ok(packages), _) => Ok(packages),
        (Err(error), Some(kept)) => {
            println!("kernel {release} stays at {}: {error:#}", kept.version);
            Ok(kept)
        }
        (Err(error), None) => Err(error.context(format!("fetching kernel {release}"))),
    }
}

fn fetch_anew(release: Release, folder: &Path) -> Result<Packages> {
    require_apt()?;
    process::announce(&format!("fetching kernel {release} from Debian {}", release.suite()));
    let apt = Apt::new(folder, release.suite(), &mirror())?;
    apt.update()?;
    let names = apt.kernel_packages()?;
    let version = version(&names)?;
    let debs = folder.join("packages");
    let incoming = folder.join("incoming");
    let _ = fs::remove_dir_all(&incoming);
    fs::create_dir_all(&incoming)?;
    apt.download(&names, &incoming)?;
    // Whole or not at all: an interrupted download must not pass for a kernel.
    let _ = fs::remove_dir_all(&debs);
    fs::rename(&incoming, &debs)?;
    fs::write(folder.join("version"), &version)?;
    kept(folder).context("apt-get downloaded no package")
}

/// What an earlier call fetched.
fn kept(folder: &Path) -> Option<Packages> {
    let version = fs::read_to_string(folder.join("version")).ok()?;
    let entries = fs::read_dir(folder.join("packages")).ok()?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    (!files.is_empty()).then_some(Packages { version, files })
}

fn is_stale(folder: &Path) -> bool {
    let fetched = fs::metadata(folder.join("version")).and_then(|file| file.modified());
    let age = fetched.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
    age.is_ok_and(|age| age > FRESH)
}

fn require_apt() -> Result<()> {
    if process::find_program("apt-get").is_none() {
        bail!(
            "other kernels come as Debian packages through apt-get, which this machine lacks; \
             `cargo xtask test` runs on the kernel that it has"
        );
    }
    packages::ensure(
        &["debian-archive-keyring"],
        "the kernels' signatures",
        packages::Unprivileged::Sudo,
    )
}

/// The mirror that the machine's own sources name for Debian's main archive.
fn mirror() -> String {
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let targets = process::capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]));
    targets.ok().and_then(|targets| mirror_among(&targets)).unwrap_or_else(|| MIRROR.to_owned())
}

fn mirror_among(targets: &str) -> Option<String> {
    let uri = targets.lines().find_map(|line| line.strip_prefix("Debian Debian "))?;
    Some(uri.trim_end_matches('/').to_owned())
}

/// apt with its own lists.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, suite: &str, mirror: &str) -> Result<Self> {
        let folder = std::path::absolute(folder)?.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("making {}", folder.display()))?;
        }
        let (sources, status) = (folder.join("sources.list"), folder.join("state/status"));
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        fs::write(&status, "")?;
        let folder = folder.display();
        let options = [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={}", status.display()),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            // The folder need not be open to apt's own user.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
            "Acquire::https::Timeout=30".to_owned(),
            "Acquire::Retries=2".to_owned(),
        ];
        Ok(Self { options: options.into_iter().flat_map(|o| ["-o".to_owned(), o]).collect() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10s", FETCH_LIMIT, program]).args(&self.options);
        command
    }

    fn update(&self) -> Result<()> {
        let quiet = ["--quiet", "--quiet", "update"];
        process::capture(self.command("apt-get").arg("--error-on=any").args(quiet)).map(drop)
    }

    /// The packages that hold the current kernel's image and modules.
    fn kernel_packages(&self) -> Result<Vec<String>> {
        let image = self.depends(META_PACKAGE)?;
        let image = image.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{META_PACKAGE} depends on no kernel"))?;
        // Since 2026 an image is empty and depends on packages with its parts.
        let parts = self.depends(&image)?.into_iter();
        let parts = parts
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
        Ok([image].into_iter().chain(parts).collect())
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--no-recommends", "--no-suggests", "--important", package]);
        Ok(dependencies(&process::capture(&mut command)?))
    }

    fn download(&self, packages: &[String], folder: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["--quiet", "--quiet", "download"]).args(packages).current_dir(folder);
        process::capture(&mut command).map(drop)
    }
}

/// The names in what `apt-cache depends` prints.
fn dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

/// The kernel's own name for its version, which its package's name ends in.
fn version(packages: &[String]) -> Result<String> {
    let image = packages.first().context("a kernel without packages")?;
    let version = image.strip_prefix("linux-image-").unwrap_or(image);
    ensure!(version.starts_with(|c: char| c.is_ascii_digit()), "{image} names no version");
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_that_the_machine_uses() {
        let targets = "Ubuntu Ubuntu http://mirror.example/ubuntu/\n\
            Debian Debian-Security http://mirror.example/debian-security/\n\
            Debian Debian http://mirror.example/debian/\n";
        assert_eq!(mirror_among(targets).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_among("Ubuntu Ubuntu http://mirror.example/ubuntu/\n"), None);
    }

    #[test]
    fn a_kernel_is_named_by_its_package() {
        let text = "linux-image-amd64\n  Depends: linux-base-amd64\n  \
            Depends: linux-image-7.2.13+deb14-amd64\n |Depends: dracut\n";
        let names = dependencies(text);
        assert_eq!(names, ["linux-base-amd64", "linux-image-7.2.13+deb14-amd64"]);
        assert_eq!(version(&names[1..]).expect("a version"), "7.2.13+deb14-amd64");
        assert!(version(&[META_PACKAGE.to_owned()]).is_err(), "the meta package has none");
    }

    #[test]
    fn an_interrupted_download_is_no_kernel() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(kept(folder.path()), None);
        fs::create_dir(folder.path().join("packages")).expect("a folder");
        fs::write(folder.path().join("version"), "6.1.0").expect("a file");
        assert_eq!(kept(folder.path()), None);
        let deb = folder.path().join("packages/linux.deb");
        fs::write(&deb, "").expect("a file");
        let expected = Packages { version: "6.1.0".into(), files: vec![deb] };
        assert_eq!(kept(folder.path()), Some(expected));
    }
}
