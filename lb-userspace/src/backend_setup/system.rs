//! Looking at this machine, and changing it.

use std::{collections::HashMap, fs, io, net::SocketAddr, path::PathBuf};

use socket2::{Domain, Socket, Type};

use super::{
    Endpoint,
    error::Error,
    plan::{self, Change, Found, LOOPBACK, host_length},
};
use crate::{
    config::{Prefix, Protocol},
    netlink::Kernel,
};

/// This machine.
pub(super) struct System {
    kernel: Kernel,
    /// Interfaces' names, by index.
    names: HashMap<u32, String>,
}

impl System {
    pub(super) async fn open() -> Result<Self, Error> {
        let kernel = Kernel::open()?;
        let names = kernel.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
        Ok(Self { kernel, names })
    }

    /// What is there now.
    pub(super) async fn look(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        for name in plan::setting_names() {
            let value =
                fs::read_to_string(path(name)).map_err(Error::io(format!("reading {name}")))?;
            found.settings.insert(name.to_owned(), value.trim().to_owned());
        }
        for (index, Prefix { address, length }) in self.kernel.addresses().await? {
            let name = self.names.get(&index).cloned().unwrap_or_default();
            found.addresses.push((name, address, length));
        }
        Ok(found)
    }

    /// Makes a change.
    pub(super) async fn make(&self, change: &Change) -> Result<(), Error> {
        match change {
            Change::Set { name, to, .. } => {
                fs::write(path(name), to).map_err(Error::io(format!("setting {name}")))
            }
            Change::AddAddress { address, .. } => {
                let prefix = Prefix { address: *address, length: host_length(*address) };
                let done = self.kernel.add_address(self.loopback()?, prefix).await;
                done.map(drop).map_err(|error| not_permitted(error, "putting an address on lo"))
            }
            Change::RemoveAddress { address, .. } => {
                let prefix = Prefix { address: *address, length: host_length(*address) };
                let done = self.kernel.remove_address(self.loopback()?, prefix).await;
                done.map(drop).map_err(|error| not_permitted(error, "taking an address off lo"))
            }
        }
    }

    /// What else keeps clients from being served.
    #[allow(clippy::unused_self, reason = "it is this machine that is looked at")]
    pub(super) fn notes(&self, services: &[Endpoint]) -> Vec<String> {
        let mut notes = Vec::new();
        for service in services {
            if nobody_listens(*service) {
                notes.push(format!("nothing listens on {service} yet"));
            }
        }
        let strict = fs::read_to_string(path("net.ipv4.conf.all.rp_filter"));
        if strict.is_ok_and(|value| value.trim() == "1") {
            notes.push(
                "rp_filter is strict: clients whose way back leads through another interface than \
                 the one their packets come by are dropped; `sysctl -w net.ipv4.conf.all.rp_filter=2` \
                 lets them in"
                    .to_owned(),
            );
        }
        notes
    }

    fn loopback(&self) -> Result<u32, Error> {
        let found = self.names.iter().find(|(_, name)| *name == LOOPBACK);
        let absent = || Error::Io {
            what: format!("looking for {LOOPBACK}"),
            cause: io::ErrorKind::NotFound.into(),
        };
        found.map(|(index, _)| *index).ok_or_else(absent)
    }
}

/// A setting's file (`Documentation/admin-guide/sysctl`).
fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}

/// Whether the port can be bound, which it cannot where somebody listens. Nothing is accepted.
fn nobody_listens(Endpoint { address, protocol }: Endpoint) -> bool {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.bind(&address.into())
    };
    address.port() != 0 && bind(address).is_ok()
}

fn not_permitted(error: crate::netlink::Error, what: &str) -> Error {
    match &error {
        crate::netlink::Error::Refused { cause, .. }
            if cause.raw_os_error() == Some(libc::EPERM) =>
        {
            Error::NotPermitted(what.to_owned())
        }
        _ => error.into(),
    }
}
