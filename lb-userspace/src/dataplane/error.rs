//! What can go wrong between the daemon and the kernel, with what to do about it.

use std::{io, net::IpAddr, path::PathBuf};

/// A failure to set up or use the kernel's half.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No privilege.
    #[error(
        "loading the XDP program needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root, or by \
         the systemd unit that comes with weir"
    )]
    NotPermitted,
    /// No bpffs.
    #[error("{0} is not on a bpffs: mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs(PathBuf),
    /// The kernel lacks something the program needs.
    #[error("this kernel cannot run the XDP program (Linux 5.10 or newer can): {0}")]
    KernelTooOld(String),
    /// The kernel refused the program or a map.
    #[error("the kernel refused {what}: {cause}")]
    Refused {
        /// What was refused.
        what: String,
        /// Its reason.
        cause: String,
    },
    /// No such interface.
    #[error("there is no interface {name:?}; there are: {known}")]
    NoInterface {
        /// The configured name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Another program is attached.
    #[error(
        "another XDP program is attached to {0}: find it with `bpftool net`, and stop what \
         attached it, or remove it with `ip link set dev {0} xdp off` (`xdpgeneric off` if it is \
         generic)"
    )]
    Occupied(String),
    /// The driver has no native XDP, or not with these settings.
    #[error(
        "the driver of {interface} does not accept a native XDP program ({cause}): lower its MTU \
         below 3500 and its queue count, or set mode = \"auto\" or \"generic\""
    )]
    NoNative {
        /// The interface.
        interface: String,
        /// The kernel's word.
        cause: String,
    },
    /// The kernel attached the program in a way that ends with the daemon.
    #[error(
        "{0} was attached without a link that outlives the daemon: Linux 5.9 or newer is needed"
    )]
    NoLink(String),
    /// A question about a packet that cannot be.
    #[error(
        "no packet goes from {source_address} to {destination}: give two addresses of one family"
    )]
    Families {
        /// Where it would come from.
        source_address: IpAddr,
        /// Where it would go to.
        destination: IpAddr,
    },
    /// A file operation on bpffs or a mapping failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was attempted.
        what: String,
        /// The system's word.
        cause: io::Error,
    },
}

impl Error {
    /// An I/O failure while doing `what`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }

    /// Finds the cause in what aya says when it loads maps and programs.
    pub(super) fn from_load(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = Some(error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                match io.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) if !text.contains("insn") => {
                        return Self::NotPermitted;
                    }
                    Some(libc::ENOSYS) => return Self::KernelTooOld(io.to_string()),
                    _ => {}
                }
            }
            source = cause.source();
            if let Some(next) = source {
                text = format!("{text}: {next}");
            }
        }
        Self::Refused { what: what.to_owned(), cause: last_part(&text) }
    }
}

/// A verifier's log has thousands of lines; its last ones tell.
fn last_part(text: &str) -> String {
    const KEEP: usize = 2_000;
    let start = text.len().saturating_sub(KEEP);
    let start = (start..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[start..].trim().to_owned()
}
