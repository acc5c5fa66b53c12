//! The socket: its file, who may reach it, and the loop that answers.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nix::unistd::{Group, chown};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};
use tracing::warn;

use super::{
    Handle, events,
    routes::{self, Answer},
};
use crate::{
    config::Control,
    http::{self, Limits, Response},
};

/// How long another daemon on our socket may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Owner and group may use the socket.
const MODE: u32 = 0o660;

/// The control socket, listening.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    limits: Limits,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon is using it.
    #[error("another weir answers on {0}; stop it first, or set another control.socket")]
    InUse(PathBuf),
    /// Something else lies there, which is not ours to remove.
    #[error("{0} is not a socket; remove it, or set another control.socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The refusal.
        error: io::Error,
    },
}

impl Server {
    /// Makes the socket: its directory if need be, in place of one that a dead daemon left, open
    /// to the group of the configuration if there is such a group.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`], also if another daemon answers on the socket.
    pub fn bind(config: &Control) -> Result<Self, Error> {
        let path = &config.socket;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
        }
        refuse_if_taken(path)?;
        // Under another name until the permissions are right; the rename then also replaces a
        // stale socket in one step.
        let fresh = provisional(path);
        remove_if_there(&fresh)?;
        let listener = UnixListener::bind(&fresh).map_err(failed("listen on", &fresh))?;
        let file = SocketFile::own(fresh)?;
        fs::set_permissions(&file.path, fs::Permissions::from_mode(MODE))
            .map_err(failed("set the mode of", &file.path))?;
        open_to_group(&file.path, &config.group);
        let file = file.rename(path)?;
        Ok(Self { listener, file, limits: Limits::default() })
    }

    /// The same server with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Answers until `shutdown` turns true, then removes the socket. Events published before
    /// that still reach their followers.
    pub async fn run(self, handle: Handle, shutdown: watch::Receiver<bool>) {
        let Self { listener, file, limits } = self;
        let followers = Arc::new(Semaphore::new(limits.followers));
        let stop = shutdown.clone();
        http::serve(&listener, limits, shutdown, move |request| {
            let (handle, stop) = (handle.clone(), stop.clone());
            let followers = Arc::clone(&followers);
            async move {
                let answer = match routes::answer(request, &handle, &limits).await {
                    Ok(Answer::Whole(response)) => Ok(response),
                    Ok(Answer::Events { follow: false }) => Ok(events::kept(&handle.events)),
                    Ok(Answer::Events { follow: true }) => {
                        events::followed(&handle.events, followers, stop)
                    }
                    Err(failure) => Err(failure),
                };
                answer.unwrap_or_else(Response::from)
            }
        })
        .await;
        drop(file);
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { action, path, error }
}

// === the socket's file ===

/// A socket's file, removed when dropped unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn own(path: PathBuf) -> Result<Self, Error> {
        let inode = inode(&path).map_err(failed("look at", &path))?;
        Ok(Self { path, inode })
    }

    fn rename(mut self, to: &Path) -> Result<Self, Error> {
        fs::rename(&self.path, to).map_err(failed("create", to))?;
        to.clone_into(&mut self.path);
        Ok(self)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may already listen under our name.
        if inode(&self.path).is_ok_and(|now| now == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Nothing, or a socket that nobody listens on, may be replaced; all else is another's.
fn refuse_if_taken(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(Error::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Also one that takes its time: it is alive.
        Ok(()) => Err(Error::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::InUse(path.to_owned())),
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

/// Connects and hangs up. In a thread, because a connect to a full queue waits without end.
fn connect(path: &Path) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || {
        let connected = std::os::unix::net::UnixStream::connect(path);
        // Nobody listens any more after the time-out.
        let _ = tell.send(connected.map(drop));
    });
    told.recv_timeout(PROBE_TIMEOUT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Without the group the socket is root's alone, which is safe; so failure is a warning.
fn open_to_group(path: &Path, group: &str) {
    let changed = match Group::from_name(group) {
        Ok(Some(found)) => chown(path, None, Some(found.gid)),
        Ok(None) => return,
        Err(error) => Err(error),
    };
    if let Err(error) = changed {
        warn!(path = %path.display(), group, %error, "cannot give the control socket to its group");
    }
}

/// The name a socket is made under before it takes its own.
fn provisional(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
