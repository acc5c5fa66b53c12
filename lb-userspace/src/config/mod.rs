//! The configuration file: what it means ([`model`]) and how it is read.
//!
//! Reading goes in two steps. `syntax` makes a tree of the text, with the place of every key and
//! value; `schema` walks the tree through `reader`, which knows how to say what is wrong. Neither
//! stops at a fault: whoever edits the file gets to see all of them at once.

mod checks;
mod duration;
mod fault;
mod health;
pub mod model;
mod reader;
mod schedule;
mod schema;
mod syntax;
#[cfg(test)]
mod tests;
mod tunnel;
mod values;
mod vrrp;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

pub(crate) use self::values::unreachable;
pub use self::{
    duration::{InvalidDuration, parse_duration},
    fault::{Fault, Faults},
    model::*,
    vrrp::{Garp, Prefix, Track, TrackScript, Tracked, Vrrp, is_virtual_home},
};
use self::{fault::Report, syntax::Source};

/// The largest file that is read, in bytes: room for about a hundred thousand backends.
pub const FILE_SIZE_MAX: u64 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file is larger than [`FILE_SIZE_MAX`].
    #[error(
        "the configuration {} is larger than {} MiB; is it the right file?",
        path.display(),
        FILE_SIZE_MAX >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file was read and is refused.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Reads a configuration file.
///
/// # Errors
///
/// [`LoadError`]: the file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    Ok(parse(&read(path)?, &path.display().to_string())?)
}

/// Reads only where the control socket is, so that a daemon can be asked while its configuration
/// is being edited: other faults than those of syntax do not matter.
///
/// # Errors
///
/// [`LoadError`]: the file cannot be read, or is no TOML.
pub fn load_socket(path: &Path) -> Result<PathBuf, LoadError> {
    let text = read(path)?;
    let mut report = Report::new(&text);
    let source = Source::new(&text, &mut report);
    let tree = source.tree(&mut report);
    let control = tree.get("control").and_then(|value| value.get_ref().as_table());
    let socket = control.and_then(|table| table.get("socket")?.get_ref().as_str());
    let socket = socket.unwrap_or(DEFAULT_SOCKET).into();
    Ok(report.finish(&text, &path.display().to_string(), Some(socket))?)
}

fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte above the limit tells a file of just the limit from a larger one.
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    let file = path.display().to_string();
    Ok(String::from_utf8(bytes).map_err(|error| Faults::not_text(&file, &error))?)
}

/// Reads a configuration from its text; `file` is the name under which faults are reported.
///
/// # Errors
///
/// Every fault of the text, in the order of their places.
pub fn parse(text: &str, file: &str) -> Result<Config, Faults> {
    let mut report = Report::new(text);
    let source = Source::new(text, &mut report);
    let tree = source.tree(&mut report);
    let config = schema::read(&tree, &report);
    report.finish(text, file, config)
}
