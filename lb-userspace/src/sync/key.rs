//! The key that two balancers share: who has it is a peer, who has not is nobody.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lb_common::echo::EchoKey;
use sha2::{Digest as _, Sha256};

/// A key's length in bytes, as Noise wants a pre-shared one (Noise, section 9).
const LENGTH: usize = 32;
/// More than a key in base64 with any end of line; a longer file is something else.
const FILE_MAX: u64 = 256;
/// What tells the hash seed from other values that may be derived from the key one day.
const SEED_LABEL: &[u8] = b"weir hash seed 1";
/// The same for the key that seals probes.
const ECHO_LABEL: &[u8] = b"weir echo key 1";

/// 32 secret bytes. Neither shown nor logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; LENGTH]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{doing} the sync key {}: {cause}{}", path.display(), remedy(cause))]
    Io {
        /// `reading` or `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        cause: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} is no sync key ({found}): it holds 32 bytes in base64; `weir sync-key FILE` makes one, \
         and every balancer gets a copy of it",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// Anybody on this machine can read it.
    #[error("everybody can read the sync key {path}: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

// === impl Key ===

impl Key {
    /// A new key from the system's random numbers.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Reads a key file.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |cause| KeyError::Io { doing: "reading", path: path.to_owned(), cause };
        let file = fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.mode() & 0o004 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(io)?;
        let malformed = |found| KeyError::Malformed { path: path.to_owned(), found };
        let decoded = STANDARD.decode(bytes.trim_ascii());
        let decoded = decoded.map_err(|error| malformed(error.to_string()))?;
        let length = decoded.len();
        let key = decoded.try_into().map_err(|_| malformed(format!("{length} bytes")))?;
        Ok(Self(key))
    }

    /// Writes the key into a file that did not exist, for its owner alone to read.
    ///
    /// # Errors
    ///
    /// [`KeyError::Io`], also if the file exists: a key that is in use must not be lost.
    pub fn store(&self, path: &Path) -> Result<(), KeyError> {
        let io = |cause| KeyError::Io { doing: "writing", path: path.to_owned(), cause };
        let mut file =
            fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        writeln!(file, "{}", self.to_base64()).map_err(io)
    }

    /// The key as its file holds it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The key for the handshake.
    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// The secret of the flow hash: the same on every balancer with this key, and a one-way
    /// function of it, so that the seed (which lies in the state file) does not give it away.
    pub fn hash_seed(&self) -> [u64; 2] {
        self.derived(SEED_LABEL)
    }

    /// The key that seals probes and their answers, which lies in the kernel program.
    pub fn echo_key(&self) -> EchoKey {
        EchoKey(self.derived(ECHO_LABEL))
    }

    fn derived(&self, label: &[u8]) -> [u64; 2] {
        let digest = Sha256::new().chain_update(label).chain_update(self.0).finalize();
        let words: [u8; 32] = digest.into();
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&words[..8]);
        high.copy_from_slice(&words[8..16]);
        [u64::from_le_bytes(low), u64::from_le_bytes(high)]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            "; make it with `weir sync-key FILE` and copy it to every balancer"
        }
        io::ErrorKind::AlreadyExists => "; another name, or remove it first",
        _ => "",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sync.key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_stored_key_is_read_back_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sync.key");
        let key = Key::generate();
        key.store(&path).unwrap();
        assert_eq!(Key::load(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = Key::generate().store(&path).unwrap_err().to_string();
        assert!(again.contains("remove it first"), "{again}");
        assert_eq!(Key::load(&path).unwrap(), key, "the old key is still there");
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        for content in [&b""[..], b"c2hvcnQ=\n", b"not base64 at all!", &[0xFF; 4096]] {
            let (_directory, path) = file(content);
            let error = Key::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
            assert!(error.to_string().contains("weir sync-key"), "{error}");
        }
        let missing = Key::load(Path::new("/nonexistent/sync.key")).unwrap_err().to_string();
        assert!(missing.contains("weir sync-key"), "{missing}");
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused() {
        let (_directory, path) = file(Key::generate().to_base64().as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Key::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn peers_have_the_same_seed_and_others_another() {
        let key = Key::generate();
        assert_eq!(key.hash_seed(), key.clone().hash_seed());
        assert_ne!(key.hash_seed(), Key::generate().hash_seed());
        assert!(!format!("{key:?}").contains(&key.to_base64()));
    }
}
