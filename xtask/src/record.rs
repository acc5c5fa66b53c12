//! The committed object and, beside it, the record of what it was built from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::sources::sha256;

const HEADER: &str =
    "# Written by `cargo xtask build-ebpf` with the object beside it; not to be edited.\n\n";

/// What an object was built from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// SHA-256 of the object.
    pub(crate) object: String,
    /// SHA-256 over its sources: [`crate::sources::Sources::hash`].
    pub(crate) sources: String,
    /// The tools that built it.
    pub(crate) built_with: Versions,
}

/// The versions of the tools that built an object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    pub(crate) rustc: String,
    /// The compiler's own LLVM.
    pub(crate) llvm: String,
    #[serde(rename = "bpf-linker")]
    pub(crate) bpf_linker: String,
}

/// How a committed object stands to the sources beside it.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    Current,
    Missing,
    /// The sources changed after the object was built.
    Stale,
    /// The object is not the one that the record describes.
    Altered,
}

/// An object's bytes and its record, where they are installed.
#[derive(Debug)]
pub(crate) struct Installed {
    object: PathBuf,
    record: PathBuf,
}

impl Installed {
    /// The committed object of the workspace at `root`.
    pub(crate) fn committed(root: &Path) -> Self {
        let folder = root.join("lb-ebpf/object");
        Self { object: folder.join("weir.bpf.o"), record: folder.join("weir.bpf.toml") }
    }

    /// Compares what is installed with the hash of the sources as they are.
    pub(crate) fn standing(&self, sources: &str) -> Result<Standing> {
        let (Some(object), Some(record)) = (read(&self.object)?, read(&self.record)?) else {
            return Ok(Standing::Missing);
        };
        let record: Record = toml::from_slice(&record)
            .with_context(|| format!("reading {}", self.record.display()))?;
        Ok(standing(&object, &record, sources))
    }

    /// Installs an object and its record. The record goes first: an interruption between the two
    /// leaves a pair that a check refuses, never one that it wrongly accepts.
    pub(crate) fn install(&self, object: &[u8], record: &Record) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(record)?);
        write(&self.record, text.as_bytes())?;
        write(&self.object, object)
    }
}

/// Writes a file as a whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    fs::write(&unfinished, bytes).with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("installing {}", path.display()))
}

fn standing(object: &[u8], record: &Record, sources: &str) -> Standing {
    if sha256(object) != record.object {
        Standing::Altered
    } else if record.sources != sources {
        Standing::Stale
    } else {
        Standing::Current
    }
}

/// A file's bytes, or nothing if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(object: &[u8], sources: &str) -> Record {
        let tool = || "1".to_owned();
        let built_with = Versions { rustc: tool(), llvm: tool(), bpf_linker: tool() };
        Record { object: sha256(object), sources: sources.into(), built_with }
    }

    #[test]
    fn an_object_is_current_only_with_its_own_sources_and_bytes() {
        let record = record(b"object", "abc");
        assert_eq!(standing(b"object", &record, "abc"), Standing::Current);
        assert_eq!(standing(b"object", &record, "abd"), Standing::Stale);
        assert_eq!(standing(b"0bject", &record, "abc"), Standing::Altered);
    }

    #[test]
    fn what_is_installed_is_read_back() {
        let folder = std::env::temp_dir().join(format!("weir-record-{}", std::process::id()));
        let installed = Installed::committed(&folder);
        assert_eq!(
            installed.standing("abc").expect("a missing file is no error"),
            Standing::Missing
        );
        installed.install(b"object", &record(b"object", "abc")).expect("the folder is writable");
        assert_eq!(installed.standing("abc").expect("just written"), Standing::Current);
        assert_eq!(installed.standing("abd").expect("just written"), Standing::Stale);
        fs::remove_dir_all(&folder).expect("the test made it");
    }
}
