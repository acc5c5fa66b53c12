//! Finding a compiler with the sources of `core`, and a linker that understands its output.
//!
//! In this order: a rustup toolchain with `rust-src` (nightly first), then the system's own under
//! `/usr`, each with a `bpf-linker` from PATH or `target/tools`. What a pair can do is tried, not
//! guessed: versions of LLVM that look alike may still refuse each other's bitcode.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages::{self, Unprivileged},
    process,
    record::Versions,
    tools, workspace,
};

/// Code generation flags of the kernel program. Misaligned loads: headers lie where the frame
/// puts them, and the kernel's verifier allows it on every machine Weir runs on; without, LLVM
/// reads a MAC address byte by byte. The linker takes the feature from LLVM 22 on.
pub(crate) const FLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
];

/// The kernel's target, whose `core` is built from source.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const BPF_LINKER: &str = "0.13.0";
/// The LLVM that we build bpf-linker on: it must not be older than the compiler's.
const LLVM_MAJOR: u32 = 22;
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const LINKER_PACKAGES: [&str; 7] =
    ["llvm-22", "llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "gcc", "g++"];

/// A compiler with the sources of its `core`.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// What we call it: `rustup's nightly-…` or `the system's`.
    pub(crate) name: String,
    pub(crate) sysroot: PathBuf,
    release: String,
    llvm: String,
}

/// All that it takes to build the kernel program.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
    pub(crate) objcopy: PathBuf,
}

impl Toolchain {
    /// The first toolchain that works; installs one if none does.
    pub(crate) fn find() -> Result<Self> {
        let compilers = compilers();
        let (compiler, linker) =
            match choose(&compilers, &linkers(), |compiler, linker| links(compiler, linker)) {
                Some(pair) => pair,
                None => install(&compilers)?,
            };
        Ok(Self { compiler, linker, objcopy: objcopy()? })
    }

    /// The versions that the record names.
    pub(crate) fn versions(&self) -> Result<Versions> {
        let linker = process::capture(Command::new(&self.linker).arg("--version"))?;
        Ok(Versions {
            rustc: self.compiler.release.clone(),
            llvm: self.compiler.llvm.clone(),
            bpf_linker: linker.trim().trim_start_matches("bpf-linker ").to_owned(),
        })
    }
}

impl Compiler {
    /// The compiler of a sysroot, if the sources of `core` lie in it.
    fn at(name: String, sysroot: PathBuf) -> Option<Self> {
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        let text = process::capture(Command::new(sysroot.join("bin/rustc")).arg("-vV")).ok()?;
        let (release, llvm) = parse_version(&text)?;
        Some(Self { name, sysroot, release, llvm })
    }

    /// A program of this toolchain, as `cargo` or `rustc`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }

    fn llvm_major(&self) -> Option<u32> {
        self.llvm.split('.').next()?.parse().ok()
    }
}

/// The first compiler that some linker works with.
fn choose<C: Clone, L: Clone>(
    compilers: &[C],
    linkers: &[L],
    works: impl Fn(&C, &L) -> bool,
) -> Option<(C, L)> {
    let pairs = compilers.iter().flat_map(|c| linkers.iter().map(move |l| (c, l)));
    pairs.into_iter().find(|(c, l)| works(c, l)).map(|(c, l)| (c.clone(), l.clone()))
}

/// Every compiler with sources, in order of preference.
fn compilers() -> Vec<Compiler> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output();
    let list = list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let mut found: Vec<Compiler> = rustup_order(&list.unwrap_or_default())
        .into_iter()
        .filter_map(|name| {
            let mut rustc = Command::new("rustup");
            rustc.args(["run", &name, "rustc", "--print", "sysroot"]);
            let sysroot = process::capture(&mut rustc).ok()?;
            Compiler::at(format!("rustup's {name}"), sysroot.trim().into())
        })
        .collect();
    found.extend(system_compiler());
    found
}

/// The compiler that Debian's packages install.
fn system_compiler() -> Option<Compiler> {
    Compiler::at("the system's".into(), "/usr".into())
}

/// The names in `rustup toolchain list`, nightly ones first.
fn rustup_order(list: &str) -> Vec<String> {
    let names = list.lines().filter(|line| !line.starts_with("no installed"));
    let mut names: Vec<String> =
        names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    // A stable sort: within each kind rustup's own order stays.
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
}

/// Release and LLVM version in the words of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, String)> {
    let release = text.lines().next()?.strip_prefix("rustc ")?;
    // Debian adds how it was built, in brackets of its own.
    let end = release.find(')').map_or(release.len(), |end| end + 1);
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some((release[..end].to_owned(), llvm.to_owned()))
}

/// Every bpf-linker at hand.
fn linkers() -> Vec<PathBuf> {
    let own = tools().join("bin/bpf-linker");
    let own = process::is_executable(&own).then_some(own);
    process::find_program("bpf-linker").into_iter().chain(own).collect()
}

/// Whether this compiler and linker make an object with our flags, without complaint.
fn links(compiler: &Compiler, linker: &Path) -> bool {
    let folder = workspace().join("target/ebpf");
    if fs::create_dir_all(&folder).is_err() {
        return false;
    }
    let output = Command::new(compiler.program("rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["--target", TARGET, "--crate-type", "cdylib", "-O"])
        .args(FLAGS)
        .arg(format!("-Clinker={}", linker.display()))
        .arg("-o")
        .arg(folder.join("probe.o"))
        .arg(workspace().join("xtask/probe.rs"))
        .output();
    // An LLVM without the feature says so and goes on.
    output.is_ok_and(|output| output.status.success() && output.stderr.is_empty())
}

/// The program that strips the object; every version we know writes the same bytes.
fn objcopy() -> Result<PathBuf> {
    let own = Path::new(LLVM_PREFIX).join("bin/llvm-objcopy");
    if process::is_executable(&own) {
        return Ok(own);
    }
    process::find_program("llvm-objcopy").context(
        "stripping the object needs llvm-objcopy: install the package `llvm` and run this again",
    )
}

/// Installs what is missing from Debian's packages, and builds the linker.
fn install(compilers: &[Compiler]) -> Result<(Compiler, PathBuf)> {
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "no compiler with the sources of `core` and a bpf-linker to match: run\n  \
             rustup toolchain install nightly --component rust-src\n  \
             cargo install --locked bpf-linker\nand then this again"
        );
    }
    let suits = |compiler: &&Compiler| compiler.llvm_major().is_some_and(|llvm| llvm <= LLVM_MAJOR);
    let mut compiler = compilers.iter().find(suits).cloned();
    let mut packages = LINKER_PACKAGES.to_vec();
    if compiler.is_none() {
        packages.extend(COMPILER_PACKAGES);
    }
    packages::ensure(&packages, "building the kernel program", Unprivileged::Explain)?;
    if compiler.is_none() {
        compiler = system_compiler().filter(|compiler| suits(&compiler));
    }
    let compiler = compiler.with_context(|| {
        format!(
            "the packages {} brought no compiler on LLVM {LLVM_MAJOR} or older with the sources \
             of `core`; run `rustup component add rust-src` and then this again",
            COMPILER_PACKAGES.join(" ")
        )
    })?;
    let linker = build_linker(&compiler)?;
    if !links(&compiler, &linker) {
        bail!(
            "{} rustc {} and {} do not work together; remove the linker to have it built \
             anew",
            compiler.name,
            compiler.release,
            linker.display()
        );
    }
    Ok((compiler, linker))
}

/// Builds bpf-linker into `target/tools`, unless it is there.
fn build_linker(compiler: &Compiler) -> Result<PathBuf> {
    let linker = tools().join("bin/bpf-linker");
    if process::is_executable(&linker) {
        return Ok(linker);
    }
    process::announce(&format!("building bpf-linker {BPF_LINKER} (a few minutes, once)"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::iter::once(Path::new(LLVM_PREFIX).join("bin")).chain(std::env::split_paths(&path));
    process::run(
        Command::new(compiler.program("cargo"))
            .env("LLVM_PREFIX", LLVM_PREFIX)
            .env("PATH", std::env::join_paths(folders).context("PATH")?)
            .env("RUSTC", compiler.program("rustc"))
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet"])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(tools()),
    )?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_compiler_that_has_a_linker_is_taken() {
        // The nightly's LLVM is newer than the only linker's.
        let works = |compiler: &&str, linker: &&str| *compiler == "system" && *linker == "own";
        assert_eq!(
            choose(&["nightly", "system"], &["path", "own"], works),
            Some(("system", "own"))
        );
        assert_eq!(
            choose(&["nightly", "system"], &["path", "own"], |_, _| true).map(|pair| pair.0),
            Some("nightly")
        );
        assert_eq!(choose(&["nightly"], &["own"], works), None);
        assert_eq!(choose::<&str, &str>(&["nightly"], &[], |_, _| true), None);
    }

    #[test]
    fn nightly_toolchains_come_first() {
        let list = "stable-x86_64 (active, default)\nnightly-x86_64\n1.95.0-x86_64\n";
        assert_eq!(rustup_order(list), ["nightly-x86_64", "stable-x86_64", "1.95.0-x86_64"]);
        assert!(rustup_order("no installed toolchains\n").is_empty());
    }

    #[test]
    fn versions_are_read_from_both_kinds_of_compilers() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                      host: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        let expected = Some(("1.96.0 (ac68faa20 2026-05-25)".to_owned(), "22.1.8".to_owned()));
        assert_eq!(parse_version(debian), expected);
        let rustup = "rustc 1.96.0 (ac68faa20 2026-05-25)\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(rustup), expected);
        assert_eq!(parse_version("something else"), None);
    }
}
