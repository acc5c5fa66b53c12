//! A service as configurations of the lab have it.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use crate::Backend;

/// A service for a configuration: shown, it is a `[[service]]` of TOML.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    address: SocketAddr,
    protocol: &'static str,
    health: String,
    settings: String,
    backends: Vec<(String, IpAddr, u16)>,
}

// === impl Service ===

impl Service {
    pub(crate) fn new(name: &str, address: SocketAddr, backends: &[Backend]) -> Self {
        let address_of = |backend: &Backend| -> IpAddr {
            if address.is_ipv4() { backend.address().into() } else { backend.address6().into() }
        };
        Self {
            name: name.to_owned(),
            address,
            protocol: "tcp",
            health: "type = \"http\"\nport = 80\npath = \"/health\"\ninterval = \"200ms\"\n\
                     timeout = \"200ms\"\nrise = 2\nfall = 2\n"
                .to_owned(),
            settings: String::new(),
            backends: backends
                .iter()
                .map(|backend| (backend.name().to_owned(), address_of(backend), 1))
                .collect(),
        }
    }

    /// Balances UDP instead of TCP.
    #[must_use]
    pub fn udp(mut self) -> Self {
        self.protocol = "udp";
        self
    }

    /// Another text for `[service.health]`; by default `/health` is fetched five times a second,
    /// and two answers in a row decide.
    #[must_use]
    pub fn health(mut self, toml: &str) -> Self {
        self.health = format!("{}\n", toml.trim_end());
        self
    }

    /// Another setting of the service, its value as TOML: `set("algorithm", "\"ip_hash\"")`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.settings, "{key} = {value}");
        self
    }

    /// Reaches the backends at their addresses of the other family.
    #[must_use]
    pub fn across(mut self, backends: &[Backend]) -> Self {
        for (name, address, _) in &mut self.backends {
            let Some(backend) = backends.iter().find(|backend| backend.name() == name) else {
                continue;
            };
            *address = match address {
                IpAddr::V4(_) => backend.address6().into(),
                IpAddr::V6(_) => backend.address().into(),
            };
        }
        self
    }

    /// Gives a backend another weight than 1.
    #[must_use]
    pub fn weight(mut self, backend: &str, weight: u16) -> Self {
        for (_, _, old) in self.backends.iter_mut().filter(|(name, ..)| name == backend) {
            *old = weight;
        }
        self
    }

    /// Leaves a backend out.
    #[must_use]
    pub fn without(mut self, backend: &str) -> Self {
        self.backends.retain(|(name, ..)| name != backend);
        self
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, protocol, health, settings, backends } = self;
        write!(
            f,
            "[[service]]\nname = \"{name}\"\naddress = \"{}\"\nport = {}\n\
             protocol = \"{protocol}\"\n{settings}[service.health]\n{health}",
            address.ip(),
            address.port(),
        )?;
        for (name, address, weight) in backends {
            write!(
                f,
                "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n\
                 weight = {weight}\n"
            )?;
        }
        Ok(())
    }
}
