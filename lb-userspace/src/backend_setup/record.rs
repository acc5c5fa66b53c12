//! What a machine was before it was prepared: a file in the state directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Endpoint, error::Error};
use crate::files;

/// What earlier runs did, and what was there before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The services that this machine is prepared for.
    pub(super) services: BTreeSet<Endpoint>,
    /// The addresses that were put on the loopback interface; one that was there before is not
    /// among them.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The settings that were changed, with their values from before.
    pub(super) settings: BTreeMap<String, String>,
}

impl Record {
    /// Reads the record; an empty one if there is none.
    pub(super) fn load(state_dir: &Path) -> Result<Self, Error> {
        let path = file(state_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::Record { path, cause: error.to_string() }),
        };
        let cause = |error: serde_json::Error| Error::Record { path, cause: error.to_string() };
        serde_json::from_slice(&text).map_err(cause)
    }

    /// Replaces the record; an empty one leaves no file.
    pub(super) fn store(&self, state_dir: &Path) -> Result<(), Error> {
        let path = file(state_dir);
        let what = format!("writing {}", path.display());
        if *self == Self::default() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io(what)(error))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Record { path: path.clone(), cause: error.to_string() })?;
        fs::create_dir_all(state_dir)
            .and_then(|()| files::replace(&path, &text))
            .map_err(Error::io(what))
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("backend-setup.json")
}
