//! Building the kernel program's object, and knowing whether the committed one is current.
//!
//! The object is committed so that nobody needs a compiler for eBPF to build or run Weir. It is
//! the same, byte for byte, wherever it is built with the same tools: paths are mapped away.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    record::{self, Installed, Record, Standing},
    sources::{Sources, sha256},
    toolchain::{FLAGS, TARGET, Toolchain},
    workspace,
};

const REMEDY: &str = "run `cargo xtask build-ebpf` and commit lb-ebpf/object";

/// `cargo xtask build-ebpf`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only check that the committed object belongs to the sources; needs no compiler
    #[arg(long, conflicts_with_all = ["output", "force"])]
    check: bool,
    /// Build even if the committed object is current
    #[arg(long)]
    force: bool,
    /// Build to this file and leave the committed object alone
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Builds, installs or checks the object.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check();
    }
    if let Some(output) = &arguments.output {
        return build_to(output);
    }
    install(arguments.force)
}

/// Fails unless the committed object was built from the sources as they are.
pub(crate) fn check() -> Result<()> {
    let sources = Sources::read(workspace(), &FLAGS)?.hash();
    let installed = Installed::committed(workspace());
    match installed.standing(&sources)? {
        Standing::Current => {
            println!("lb-ebpf/object/weir.bpf.o is up to date");
            Ok(())
        }
        Standing::Missing => bail!("there is no committed object with its record: {REMEDY}"),
        Standing::Stale => {
            bail!("the kernel program's sources changed after the object was built: {REMEDY}")
        }
        Standing::Altered => bail!("the committed object is not what its record says: {REMEDY}"),
    }
}

/// Builds the object to a file of the caller's choice.
pub(crate) fn build_to(output: &Path) -> Result<()> {
    let object = build(&Toolchain::find()?)?;
    record::write(output, &object)?;
    println!("built {} ({} bytes)", output.display(), object.len());
    Ok(())
}

/// Brings the committed object up to date.
fn install(force: bool) -> Result<()> {
    let installed = Installed::committed(workspace());
    // Read before the build: a change made meanwhile makes the object stale, as it should.
    let sources = Sources::read(workspace(), &FLAGS)?.hash();
    // An unreadable record is no obstacle to writing a new one.
    if !force && matches!(installed.standing(&sources), Ok(Standing::Current)) {
        println!("lb-ebpf/object/weir.bpf.o is up to date");
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    let object = build(&toolchain)?;
    let record = Record { object: sha256(&object), sources, built_with: toolchain.versions()? };
    installed.install(&object, &record)?;
    println!("installed lb-ebpf/object/weir.bpf.o ({} bytes)", object.len());
    Ok(())
}

/// Compiles, links and strips; returns the object's bytes.
fn build(toolchain: &Toolchain) -> Result<Vec<u8>> {
    process::announce(&format!(
        "building lb-ebpf with {} rustc and {}",
        toolchain.compiler.name,
        toolchain.linker.display()
    ));
    let target = workspace().join("target/ebpf");
    let mut command = Command::new(toolchain.compiler.program("cargo"));
    command
        .current_dir(workspace())
        .env("RUSTC", toolchain.compiler.program("rustc"))
        // `-Z build-std` on a released compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(toolchain)?)
        .args(["build", "--quiet", "--locked", "-Z", "build-std=core", "--target", TARGET])
        .args(["--release", "--package", "lb-ebpf", "--target-dir"])
        .arg(&target);
    // What the caller's own environment says about other builds is not meant for this one.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    process::run(&mut command)?;

    // DWARF only; BTF, which the kernel reads, is kept.
    let stripped = target.join("weir.bpf.o");
    process::run(
        Command::new(&toolchain.objcopy)
            .arg("--strip-debug")
            .arg(target.join(TARGET).join("release/weir-xdp"))
            .arg(&stripped),
    )?;
    fs::read(&stripped).with_context(|| format!("reading {}", stripped.display()))
}

/// The flags, with every path of this machine that line information would carry mapped away.
fn rust_flags(toolchain: &Toolchain) -> Result<OsString> {
    let sysroot = toolchain.compiler.sysroot.join("lib/rustlib/src/rust");
    let mut flags = OsString::from(FLAGS.join("\u{1f}"));
    let mut add = |flag: &str, value: &Path, suffix: &str| {
        flags.push("\u{1f}");
        flags.push(flag);
        flags.push(value);
        flags.push(suffix);
    };
    add("-Clinker=", &toolchain.linker, "");
    add("--remap-path-prefix=", workspace(), "=/weir");
    add("--remap-path-prefix=", &sysroot, "=/rust");
    add("--remap-path-prefix=", &registry(toolchain)?, "=/registry");
    Ok(flags)
}

/// The folder that the sources of our dependencies were unpacked to.
fn registry(toolchain: &Toolchain) -> Result<PathBuf> {
    let metadata = process::capture(
        Command::new(toolchain.compiler.program("cargo"))
            .current_dir(workspace())
            .env("RUSTC", toolchain.compiler.program("rustc"))
            .args(["metadata", "--locked", "--format-version=1"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"]),
    )?;
    registry_in(&metadata).context("`cargo metadata` does not say where aya-ebpf's sources lie")
}

/// The folder above aya-ebpf's own, in the words of `cargo metadata`.
fn registry_in(metadata: &str) -> Option<PathBuf> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let packages = metadata.get("packages")?.as_array()?;
    let aya = packages.iter().find(|package| package["name"] == "aya-ebpf")?;
    let manifest = Path::new(aya.get("manifest_path")?.as_str()?);
    manifest.ancestors().nth(2).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_the_folder_of_all_crates() {
        let metadata = r#"{"packages": [
            {"name": "libc", "manifest_path": "/a/libc-0.2/Cargo.toml"},
            {"name": "aya-ebpf", "manifest_path": "/r/src/index/aya-ebpf-0.2.1/Cargo.toml"}]}"#;
        assert_eq!(registry_in(metadata), Some("/r/src/index".into()));
        assert_eq!(registry_in(r#"{"packages": []}"#), None);
        assert_eq!(registry_in("no JSON"), None);
    }
}
