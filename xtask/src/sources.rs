//! One hash over everything that the kernel program's object is made of.
//!
//! It covers the sources of `lb-ebpf` and `lb-common` with their manifests, the locked versions of
//! the crates whose code ends up in the object, the release profiles, and the build's flags. The
//! toolchain is not part of it: a newer compiler makes no object stale.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// The crates compiled into the object.
const CRATES: [&str; 2] = ["lb-ebpf", "lb-common"];

/// Crates which `aya-ebpf` splits itself into; they are in no manifest of ours.
const AYA_PARTS: &str = "aya-ebpf-";

/// What an object is made of: bytes by name, so that the order of a folder's listing cannot matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(BTreeMap<String, Vec<u8>>);

impl Sources {
    /// Reads the sources of the workspace at `root`, to be built with `flags`.
    pub(crate) fn read(root: &Path, flags: &[&str]) -> Result<Self> {
        let mut sources = Self::default();
        let mut dependencies = BTreeSet::new();
        for name in CRATES {
            sources.add_folder(root, &root.join(name).join("src"))?;
            let manifest = format!("{name}/Cargo.toml");
            let text = read_text(&root.join(&manifest))?;
            dependencies.extend(direct_dependencies(&text).context(manifest.clone())?);
            sources.0.insert(manifest, text.into());
        }
        let lock = read_text(&root.join("Cargo.lock"))?;
        let locked = locked_versions(&lock, &dependencies).context("Cargo.lock")?;
        let profiles = profiles(&read_text(&root.join("Cargo.toml"))?).context("Cargo.toml")?;
        sources.0.insert("locked versions".into(), locked.into());
        sources.0.insert("profiles".into(), profiles.into());
        sources.0.insert("flags".into(), flags.join("\n").into());
        Ok(sources)
    }

    /// The hash over all of it, in hexadecimal digits.
    pub(crate) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (name, bytes) in &self.0 {
            // Lengths first, so that no two sets of files run together to the same bytes.
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        hexadecimal(&hash.finalize())
    }

    /// Adds every file below a folder, named by its path from the workspace's root.
    fn add_folder(&mut self, root: &Path, folder: &Path) -> Result<()> {
        let entries =
            fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.is_dir() {
                self.add_folder(root, &path)?;
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            self.0.insert(name, bytes);
        }
        Ok(())
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The names in a manifest's `[dependencies]`.
fn direct_dependencies(manifest: &str) -> Result<BTreeSet<String>> {
    let manifest: toml::Table = manifest.parse()?;
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    Ok(dependencies.into_iter().flatten().map(|(name, _)| name.clone()).collect())
}

/// Name, version and checksum of the dependencies that come from a registry, one a line. Crates
/// of the workspace have no checksum: their sources are hashed themselves.
fn locked_versions(lock: &str, dependencies: &BTreeSet<String>) -> Result<String> {
    let lock: toml::Table = lock.parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let mut lines = String::new();
    for package in packages.into_iter().flatten() {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str);
        let (Some(name), Some(version), Some(checksum)) =
            (text("name"), text("version"), text("checksum"))
        else {
            continue;
        };
        if dependencies.contains(name) || name.starts_with(AYA_PARTS) {
            let _ = writeln!(lines, "{name} {version} {checksum}");
        }
    }
    Ok(lines)
}

/// The workspace's `[profile]` tables and edition, as TOML without comments.
fn profiles(manifest: &str) -> Result<String> {
    let manifest: toml::Table = manifest.parse()?;
    let mut parts = toml::Table::new();
    if let Some(profile) = manifest.get("profile") {
        parts.insert("profile".into(), profile.clone());
    }
    let package = manifest.get("workspace").and_then(|workspace| workspace.get("package"));
    if let Some(edition) = package.and_then(|package| package.get("edition")) {
        parts.insert("edition".into(), edition.clone());
    }
    Ok(toml::to_string(&parts)?)
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> String {
        let files = files.iter().map(|(name, text)| ((*name).into(), (*text).into()));
        Sources(files.collect()).hash()
    }

    #[test]
    fn any_change_of_a_source_changes_the_hash() {
        let before = of(&[("a.rs", "fn a() {}"), ("b.rs", "")]);
        assert_eq!(before, of(&[("b.rs", ""), ("a.rs", "fn a() {}")]), "order is no change");
        assert_ne!(before, of(&[("a.rs", "fn b() {}"), ("b.rs", "")]), "text");
        assert_ne!(before, of(&[("a.rs", "fn a() {}")]), "a file less");
        assert_ne!(before, of(&[("a.rs", "fn a() {}"), ("c.rs", "")]), "a new name");
        assert_ne!(before, of(&[("a.rs", "fn a() "), ("b.rs", "{}")]), "text moved across files");
    }

    #[test]
    fn this_workspace_is_read_whole() {
        let sources = Sources::read(crate::workspace(), &["-Cone"]).expect("the sources are here");
        for name in ["lb-ebpf/src/main.rs", "lb-common/src/steer.rs", "lb-common/Cargo.toml"] {
            assert!(sources.0.contains_key(name), "{name}");
        }
        let locked = String::from_utf8_lossy(&sources.0["locked versions"]);
        assert!(locked.contains("aya-ebpf ") && locked.contains("network-types "), "{locked}");
        let profiles = String::from_utf8_lossy(&sources.0["profiles"]);
        assert!(profiles.contains("codegen-units"), "{profiles}");
        let other = Sources::read(crate::workspace(), &["-Ctwo"]).expect("the sources are here");
        assert_ne!(sources.hash(), other.hash(), "the flags are part of the hash");
    }

    #[test]
    fn only_locked_crates_of_the_object_count() {
        let lock = |aya: &str, clap: &str| {
            format!(
                "[[package]]\nname = \"aya-ebpf\"\nversion = \"{aya}\"\nchecksum = \"1\"\n\
                 [[package]]\nname = \"clap\"\nversion = \"{clap}\"\nchecksum = \"2\"\n\
                 [[package]]\nname = \"lb-common\"\nversion = \"0.1.0\"\n"
            )
        };
        let names = ["aya-ebpf", "lb-common"].map(String::from).into();
        let locked = |aya, clap| locked_versions(&lock(aya, clap), &names).expect("it is TOML");
        assert_eq!(locked("0.2.1", "4.0.0"), "aya-ebpf 0.2.1 1\n");
        assert_eq!(locked("0.2.1", "4.0.0"), locked("0.2.1", "4.5.0"));
        assert_ne!(locked("0.2.1", "4.0.0"), locked("0.2.2", "4.0.0"));
    }

    #[test]
    fn development_dependencies_do_not_count() {
        let manifest =
            "[dependencies]\nnetwork-types = \"0.2\"\n[dev-dependencies]\nproptest = \"1\"";
        let names = direct_dependencies(manifest).expect("it is TOML");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["network-types"]);
    }
}
