//! The decapsulating program of a backend, from the same object as the balancer's.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapError},
    programs::Xdp,
};
use lb_common::layout::{Network, SOURCES_MAX, VIPS_MAX};

use super::{error::Error, verify};
use crate::config::Prefix;

/// What is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// The networks that balancers send from, up to 32.
    pub sources: Vec<Prefix>,
    /// The VIPs that they forward, up to 256.
    pub vips: Vec<std::net::IpAddr>,
    /// The UDP port of GUE.
    pub port: u16,
}

/// The words of a [`Network`], which are all that it consists of.
type Words = [u32; 10];

const NAME: &str = "decapsulate";

/// Loads the program; it is attached nowhere yet.
///
/// # Errors
///
/// [`Error`] if the kernel refuses, or there is more than the tables hold.
pub fn load_decapsulator(object: &[u8], entrance: &Entrance) -> Result<Ebpf, Error> {
    let port = u32::from(entrance.port);
    let mut loader = EbpfLoader::new();
    loader.override_global("TUNNEL_PORT", &port, true);
    let mut ebpf = verify::object(&mut loader, object, "the decapsulating program's tables")?;
    let vips = entrance.vips.iter().map(|address| Prefix {
        address: *address,
        length: if address.is_ipv4() { 32 } else { 128 },
    });
    fill(&mut ebpf, "TUNNEL_SOURCES", SOURCES_MAX, entrance.sources.iter().copied())?;
    fill(&mut ebpf, "TUNNEL_VIPS", VIPS_MAX, vips)?;
    verify::program(decapsulator(&mut ebpf)?, "the decapsulating program")?;
    Ok(ebpf)
}

/// The program in an object that was loaded.
///
/// # Errors
///
/// The object has none.
pub fn decapsulator(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    ebpf.program_mut(NAME).and_then(|program| program.try_into().ok()).ok_or_else(|| {
        Error::Refused {
            what: "the object".to_owned(),
            cause: format!("it has no XDP program named {NAME}"),
        }
    })
}

fn fill(
    ebpf: &mut Ebpf,
    name: &str,
    most: u32,
    networks: impl Iterator<Item = Prefix>,
) -> Result<(), Error> {
    let refused = |cause: String| Error::Refused { what: format!("the table {name}"), cause };
    let map = ebpf.map_mut(name).ok_or_else(|| refused("the object lacks it".to_owned()))?;
    let mut table: Array<_, Words> =
        map.try_into().map_err(|error: MapError| refused(error.to_string()))?;
    for (index, prefix) in (0..).zip(networks) {
        if index == most {
            return Err(refused(format!("it holds {most} entries at most")));
        }
        table.set(index, words(network(prefix)), 0).map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}

fn network(Prefix { address, length }: Prefix) -> Network {
    let word = |bytes: &[u8; 16], n: usize| {
        u32::from_le_bytes([0, 1, 2, 3].map(|part| bytes[n * 4 + part]))
    };
    let words = |bytes: [u8; 16]| std::array::from_fn(|n| word(&bytes, n));
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    match address {
        std::net::IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let first = |word: [u8; 4]| [u32::from_le_bytes(word), 0, 0, 0];
            let (address, mask) = (first(v4.octets()), first(mask.to_be_bytes()));
            Network { family: 4, address, mask, reserved: 0 }
        }
        std::net::IpAddr::V6(v6) => {
            let (address, mask) = (words(v6.octets()), words(mask.to_be_bytes()));
            Network { family: 6, address, mask, reserved: 0 }
        }
    }
}

fn words(Network { family, address, mask, reserved }: Network) -> Words {
    let [a, b, c, d] = address;
    let [e, f, g, h] = mask;
    [family, a, b, c, d, e, f, g, h, reserved]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        let of = |text: &str, length| network(Prefix { address: text.parse().unwrap(), length });
        let has = |network: &Network, text: &str| {
            let single = network_of(text);
            network.has(single.family, single.address)
        };
        let four = of("10.255.0.0", 16);
        assert!(has(&four, "10.255.3.4") && !has(&four, "10.254.3.4") && !has(&four, "::1"));
        let six = of("2001:db8::", 33);
        assert!(has(&six, "2001:db8:7fff::1") && !has(&six, "2001:db8:8000::1"));
        let one = of("10.0.0.1", 32);
        assert!(has(&one, "10.0.0.1") && !has(&one, "10.0.0.2"));
    }

    fn network_of(text: &str) -> Network {
        let address: std::net::IpAddr = text.parse().unwrap();
        network(Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } })
    }
}
