//! `tunnel` in `[[service]]`: what `forward = "ipip"` and `"gue"` put before packets.

use std::net::IpAddr;

use toml::de::DeValue;

use super::{
    Prefix,
    model::{Forward, Tunnel},
    reader::Table,
    values::{self, Refusal},
    vrrp,
};

const EXPECTED_SOURCE: &str = "a list of networks, such as [\"10.255.0.0/16\"]";

pub(super) fn tunnel(service: &mut Table<'_>, forward: Option<Forward>) -> Option<Tunnel> {
    if forward.is_some_and(|forward| !forward.is_tunnel()) {
        service.refuse_key(
            "tunnel",
            "tunnel belongs to services with forward = \"ipip\" or \"gue\"; leave it out",
        );
        return Some(Tunnel::default());
    }
    service.section("tunnel", "in [service.tunnel]", |table| {
        if forward == Some(Forward::Ipip) {
            table.refuse_key("port", "port belongs to tunnels of \"gue\", this one is \"ipip\"");
        }
        let port = match forward {
            Some(Forward::Gue) => table.or("port", values::number16(1..=u16::MAX), Tunnel::PORT),
            _ => Some(Tunnel::PORT),
        };
        let source = table.list_or_empty("source", EXPECTED_SOURCE, network);
        let of = |ipv4| {
            let same = |prefix: &&Prefix| prefix.address.is_ipv4() == ipv4;
            source.iter().flatten().filter(same).count()
        };
        if of(true) > 1 || of(false) > 1 {
            let message = "source: found several networks of a family, expected one at most";
            table.fault("source", message.to_owned());
        }
        Some(Tunnel { port: port?, source: source? })
    })
}

/// A network: an address whose bits behind the prefix are zero.
fn network(value: &DeValue<'_>) -> Result<Prefix, Refusal> {
    let prefix = vrrp::prefix(value)?;
    let shift = u32::from(prefix.length);
    let behind = match prefix.address {
        IpAddr::V4(v4) => u128::from(v4.to_bits().checked_shl(shift).unwrap_or(0)),
        IpAddr::V6(v6) => v6.to_bits().checked_shl(shift).unwrap_or(0),
    };
    if behind == 0 {
        return Ok(prefix);
    }
    Err(Refusal::Expected(format!(
        "a network, whose bits behind the prefix of {shift} are zero, such as \"10.255.0.0/16\""
    )))
}
