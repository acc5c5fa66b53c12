//! The program on its interfaces.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::{XdpLink, XdpLinkId},
};
use aya_obj::programs::XdpAttachType;
use lb_common::echo::Responder;
use tracing::warn;

use super::{
    TablesId,
    error::Error,
    packet_log::{self, PacketLog},
    tables::{self, Ingress},
    verify,
};
use crate::config::AttachMode;

/// How long a link whose pin was removed may take to be gone.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// An interface to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: [u8; 6],
    /// Its place among the interfaces of the configuration.
    pub place: u32,
    /// How the configuration wants it.
    pub mode: AttachMode,
    /// How peers' probes are answered.
    pub echo: Responder,
}

/// What came of an attachment.
#[derive(Debug)]
pub struct Attached {
    /// `Native` or `Generic`.
    pub mode: AttachMode,
    /// What the operator should know.
    pub warning: Option<String>,
    /// The way back.
    pub undo: Undo,
    /// What the program tells of its packets, if anybody asked for it.
    pub packet_log: Option<PacketLog>,
}

/// Takes an attachment back: what ran before runs again.
#[derive(Debug)]
pub struct Undo {
    pin: PathBuf,
    former: Option<Former>,
}

/// The program that an earlier run left on an interface.
#[derive(Debug)]
struct Former {
    program: Xdp,
    index: u32,
    mode: AttachMode,
    pin: PathBuf,
}

impl Attachment {
    /// Loads the program for this interface and attaches it, or swaps it into the link that an
    /// earlier run left: packets see the old program or the new one. After a failure the earlier
    /// run's program is where it was.
    ///
    /// # Errors
    ///
    /// [`Error`] with what to do.
    pub fn attach(&self, object: &[u8], id: &TablesId, bpf_dir: &Path) -> Result<Attached, Error> {
        let log = packet_log::level();
        let Self { index, mac, place, echo, .. } = *self;
        let own = Ingress { index, mac, place, echo, log };
        let mut ebpf = tables::load(object, id, bpf_dir, own)?;
        let program: &mut Xdp = ebpf
            .program_mut("weir")
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::Refused {
                what: "the object".to_owned(),
                cause: "it has no XDP program named weir".to_owned(),
            })?;
        verify::program(program, "the XDP program")?;
        let links = links_directory(bpf_dir);
        fs::create_dir_all(&links).map_err(Error::io(format!("making {}", links.display())))?;
        let former = self.former(&links);
        match self.place(program, &links) {
            Ok((mode, warning)) => {
                let undo = Undo { pin: self.pin(&links, mode), former };
                let tells = log > 0;
                let packet_log = tells.then(|| PacketLog::follow(&mut ebpf, &self.name)).flatten();
                Ok(Attached { mode, warning, undo, packet_log })
            }
            Err(error) => {
                if let Some(former) = former {
                    former.restore();
                }
                Err(error)
            }
        }
    }

    /// What an earlier run left here.
    fn former(&self, links: &Path) -> Option<Former> {
        [AttachMode::Native, AttachMode::Generic].into_iter().find_map(|mode| {
            let pin = self.pin(links, mode);
            let link = FdLink::from(PinnedLink::from_pin(&pin).ok()?);
            let program = program_of(&link)?;
            Some(Former { program, index: self.index, mode, pin })
        })
    }

    fn place(
        &self,
        program: &mut Xdp,
        links: &Path,
    ) -> Result<(AttachMode, Option<String>), Error> {
        // Native and generic programs exclude each other, so the old one has to go first.
        self.drop_other_modes(links)?;
        for mode in [AttachMode::Native, AttachMode::Generic] {
            if self.wants(mode) && self.swap(program, links, mode)? {
                return Ok((mode, None));
            }
        }
        self.attach_anew(program, links)
    }

    fn wants(&self, mode: AttachMode) -> bool {
        self.mode == AttachMode::Auto || self.mode == mode
    }

    /// Detaches what an earlier run attached in a mode that is not wanted any more.
    fn drop_other_modes(&self, links: &Path) -> Result<(), Error> {
        for mode in [AttachMode::Native, AttachMode::Generic] {
            let path = self.pin(links, mode);
            if !self.wants(mode) && path.exists() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Swaps the program into a pinned link; false if there is none that is alive.
    fn swap(&self, program: &mut Xdp, links: &Path, mode: AttachMode) -> Result<bool, Error> {
        let path = self.pin(links, mode);
        if !path.exists() {
            return Ok(false);
        }
        let link = PinnedLink::from_pin(&path).map(FdLink::from).and_then(XdpLink::try_from);
        if link.is_ok_and(|link| program.attach_to_link(link).is_ok()) {
            return Ok(true);
        }
        // The interface went away and came back: its link is dead and attaches nothing.
        remove(&path)?;
        Ok(false)
    }

    fn attach_anew(
        &self,
        program: &mut Xdp,
        links: &Path,
    ) -> Result<(AttachMode, Option<String>), Error> {
        if self.mode != AttachMode::Generic {
            match self.attach_as(program, links, AttachMode::Native) {
                Ok(()) => return Ok((AttachMode::Native, None)),
                Err(error @ Error::NoNative { .. }) if self.mode == AttachMode::Auto => {
                    self.attach_as(program, links, AttachMode::Generic)?;
                    let warning =
                        Some(format!("{error}. Running in generic mode, which is slower"));
                    return Ok((AttachMode::Generic, warning));
                }
                Err(error) => return Err(error),
            }
        }
        self.attach_as(program, links, AttachMode::Generic)?;
        Ok((AttachMode::Generic, None))
    }

    fn attach_as(&self, program: &mut Xdp, links: &Path, mode: AttachMode) -> Result<(), Error> {
        let xdp_mode = match mode {
            AttachMode::Generic => XdpMode::Skb,
            AttachMode::Native | AttachMode::Auto => XdpMode::Driver,
        };
        let id = attach_when_free(program, self.index, xdp_mode)
            .map_err(|error| self.attach_error(&error, mode))?;
        let link = program.take_link(id).map_err(|error| self.attach_error(&error, mode))?;
        // aya falls back to netlink where links are not to be had; such an attachment would end
        // with the daemon. Dropping it here detaches it.
        let link = FdLink::try_from(link).map_err(|_| Error::NoLink(self.name.clone()))?;
        let path = self.pin(links, mode);
        link.pin(&path).map_err(|error| Error::Refused {
            what: format!("pinning {}", path.display()),
            cause: error.to_string(),
        })?;
        Ok(())
    }

    fn attach_error(&self, error: &ProgramError, mode: AttachMode) -> Error {
        let interface = self.name.clone();
        match os_error(error) {
            _ if is_taken(error) => Error::Occupied(interface),
            Some(libc::EPERM) => Error::NotPermitted,
            _ if mode == AttachMode::Native => {
                let cause = match error {
                    ProgramError::SyscallError(error) => error.io_error.to_string(),
                    other => other.to_string(),
                };
                Error::NoNative { interface, cause }
            }
            _ => Error::from_load(&format!("the XDP program on {interface}"), error),
        }
    }

    fn pin(&self, links: &Path, mode: AttachMode) -> PathBuf {
        let mode = if mode == AttachMode::Generic { "generic" } else { "native" };
        links.join(format!("{}-{mode}", self.index))
    }
}

// === impl Undo ===

impl Undo {
    /// Puts back what was there before, or nothing if there was nothing.
    pub fn undo(self) {
        match self.former {
            Some(former) => former.restore(),
            None => drop(remove(&self.pin)),
        }
    }
}

// === impl Former ===

impl Former {
    /// As well as it goes: the failure that brought us here is the one to be told.
    fn restore(mut self) {
        if let Err(error) = self.try_restore() {
            warn!("the program of the run before could not be put back: {error}");
        }
    }

    fn try_restore(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        if let Ok(link) = PinnedLink::from_pin(&self.pin) {
            self.program.attach_to_link(XdpLink::try_from(FdLink::from(link))?)?;
            return Ok(());
        }
        let (mode, other) = match self.mode {
            AttachMode::Generic => (XdpMode::Skb, "native"),
            AttachMode::Native | AttachMode::Auto => (XdpMode::Driver, "generic"),
        };
        remove(&self.pin.with_file_name(format!("{}-{other}", self.index)))?;
        let link = attach_when_free(&mut self.program, self.index, mode)?;
        FdLink::try_from(self.program.take_link(link)?)?.pin(&self.pin)?;
        Ok(())
    }
}

/// Attaches, after a while if the interface is taken: the kernel lets go of a removed pin's link a
/// moment after the removal.
fn attach_when_free(
    program: &mut Xdp,
    index: u32,
    mode: XdpMode,
) -> Result<XdpLinkId, ProgramError> {
    let end = Instant::now() + RELEASE_LIMIT;
    loop {
        match program.attach_to_if_index(index, mode) {
            Err(error) if is_taken(&error) && Instant::now() < end => thread::sleep(RELEASE_PAUSE),
            outcome => return outcome,
        }
    }
}

fn is_taken(error: &ProgramError) -> bool {
    matches!(os_error(error), Some(libc::EBUSY | libc::EEXIST))
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// The program behind a link.
fn program_of(link: &FdLink) -> Option<Xdp> {
    let id = link.info().ok()?.program_id();
    let info = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    Xdp::from_program_info(info, "weir".into(), XdpAttachType::Interface).ok()
}

/// Takes program, tables and links out of the kernel. Returns whether there was anything.
///
/// # Errors
///
/// [`Error::Io`] if bpffs refuses.
pub fn detach(bpf_dir: &Path) -> Result<bool, Error> {
    if !bpf_dir.exists() {
        return Ok(false);
    }
    let links = links_directory(bpf_dir);
    if links.exists() {
        fs::remove_dir_all(&links).map_err(Error::io(format!("removing {}", links.display())))?;
    }
    tables::Tables::sweep(bpf_dir, None)?;
    fs::remove_dir(bpf_dir).map_err(Error::io(format!("removing {}", bpf_dir.display())))?;
    Ok(true)
}

/// Detaches from every interface but those with these indices.
///
/// # Errors
///
/// [`Error::Io`] if bpffs refuses.
pub fn keep_only(indices: &[u32], bpf_dir: &Path) -> Result<(), Error> {
    let links = links_directory(bpf_dir);
    let Ok(entries) = fs::read_dir(&links) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let index = name.to_string_lossy().split('-').next().and_then(|i| i.parse().ok());
        if !index.is_some_and(|index| indices.contains(&index)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn links_directory(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join("links")
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
