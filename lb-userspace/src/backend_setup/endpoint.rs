//! A service as its backends know it: `192.0.2.10:3000/tcp`, `[2001:db8::10]:53/udp`.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::config::Protocol;

/// The VIP, port and protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// VIP and port; port 0 stands for every port.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write it as 192.0.2.10:3000/tcp or [2001:db8::10]:53/udp")]
pub struct InvalidEndpoint(&'static str);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let (address, protocol) =
            text.rsplit_once('/').ok_or(InvalidEndpoint("it names no protocol"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(InvalidEndpoint("the protocol may be tcp or udp")),
        };
        let address: SocketAddr =
            address.parse().map_err(|_| InvalidEndpoint("that is no address with a port"))?;
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(InvalidEndpoint("that is not the address of one host"));
        }
        Ok(Self { address, protocol })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        write!(f, "{}/{protocol}", self.address)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;

    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["192.0.2.10:3000/tcp", "[2001:db8::10]:53/udp"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("192.0.2.10:3000", "protocol"),
            ("192.0.2.10:3000/sctp", "tcp or udp"),
            ("192.0.2.10/tcp", "no address with a port"),
            ("grafana:3000/tcp", "no address with a port"),
            ("127.0.0.1:80/tcp", "one host"),
            ("0.0.0.0:80/tcp", "one host"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
