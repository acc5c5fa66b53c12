//! The kinds of values: what each accepts, in one function a kind.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use rustls::pki_types::ServerName;
use toml::de::DeValue;

use super::{
    duration::{display_duration, parse_duration},
    model::{Name, Share, StatusPattern},
    reader::nearest,
};

/// Why a value does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something else is expected: `found …, expected …`.
    Expected(String),
    /// Something else is expected, and what was found is not to be shown: it is a secret.
    Hidden(String),
    /// It has a fault of its own: `found …, …`.
    Because(String),
    /// It has a meaning that this version lacks: `… is not supported by this version; use …`.
    Unsupported(String),
}

/// Longer texts are cut in messages.
const QUOTED_MAX: usize = 60;
/// `sun_path` of a Unix socket's address (unix(7)) has room for this many bytes and a zero.
const SOCKET_PATH_MAX: usize = 107;
/// `IFNAMSIZ` less the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

const EXPECTED_ADDRESS: &str =
    "an IP address in quotes, such as \"192.0.2.10\", without port or prefix length";

/// A duration within bounds.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Refusal> {
    move |value| {
        let DeValue::String(text) = value else {
            return expected("a duration in quotes, such as \"250ms\", \"3s\", \"1m\" or \"1h\"");
        };
        let duration = parse_duration(text).map_err(|_| {
            Refusal::Expected("a duration such as \"250ms\", \"3s\", \"1m\" or \"1h\"".to_owned())
        })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|bound| display_duration(*bound));
        expected(&format!("a duration from {least} to {most}"))
    }
}

/// A duration within bounds, or `"0s"` for "off".
pub(super) fn duration_or_zero(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Refusal> {
    let within = duration(range);
    move |value| match value.as_str().map(parse_duration) {
        Some(Ok(Duration::ZERO)) => Ok(Duration::ZERO),
        _ => within(value).map_err(|refusal| match refusal {
            Refusal::Expected(what) => Refusal::Expected(format!("{what}, or \"0s\" for off")),
            other => other,
        }),
    }
}

/// A share of a whole, from 0 to 1.
pub(super) fn share(value: &DeValue<'_>) -> Result<Share, Refusal> {
    let text = match value {
        DeValue::Float(float) => Some(float.as_str()),
        DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str()),
        _ => None,
    };
    let fraction = text.and_then(|text| text.parse().ok());
    fraction
        .and_then(Share::new)
        .ok_or_else(|| Refusal::Expected("a number from 0 to 1, such as 0.5".to_owned()))
}

/// A whole number within bounds.
pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Result<u32, Refusal> {
    move |value| {
        let number = value.as_integer().and_then(|integer| {
            let digits = integer.as_str().trim_start_matches('+');
            u32::from_str_radix(digits, integer.radix()).ok()
        });
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Refusal::Expected(format!("a whole number from {least} to {most}"))
        })
    }
}

/// The same for what fits into 16 bits.
pub(super) fn number16(
    range: RangeInclusive<u16>,
) -> impl Fn(&DeValue<'_>) -> Result<u16, Refusal> {
    let wide = number((*range.start()).into()..=(*range.end()).into());
    // A number within the range fits.
    move |value| wide(value).map(|number| u16::try_from(number).unwrap_or(*range.end()))
}

/// The same for what fits into 8 bits.
pub(super) fn number8(range: RangeInclusive<u8>) -> impl Fn(&DeValue<'_>) -> Result<u8, Refusal> {
    let wide = number((*range.start()).into()..=(*range.end()).into());
    // A number within the range fits.
    move |value| wide(value).map(|number| u8::try_from(number).unwrap_or(*range.end()))
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| Refusal::Expected("true or false".to_owned()))
}

/// The number of slots of a ring: a prime, without which Maglev's steps through the ring do not
/// reach every slot.
pub(super) fn ring(value: &DeValue<'_>) -> Result<u32, Refusal> {
    const RANGE: RangeInclusive<u32> = 1009..=4_194_304;
    let ring = number(RANGE)(value)?;
    if is_prime(ring) {
        return Ok(ring);
    }
    let candidates = (1..).flat_map(|distance| [ring.saturating_sub(distance), ring + distance]);
    // 1009 is a prime in range, so that the search ends.
    let nearest =
        candidates.into_iter().find(|n| RANGE.contains(n) && is_prime(*n)).unwrap_or(1009);
    expected(&format!("a prime number; the nearest is {nearest}"))
}

/// By trial division: at most about two thousand steps for a ring.
fn is_prime(number: u32) -> bool {
    number >= 2 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

/// One of a few words. `unsupported` are those whose meaning this version lacks.
pub(super) fn word<T: Copy>(
    words: &'static [(&'static str, T)],
    unsupported: &'static [&'static str],
) -> impl Fn(&DeValue<'_>) -> Result<T, Refusal> {
    move |value| {
        let choice = || {
            let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            match quoted.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                _ => quoted.concat(),
            }
        };
        let DeValue::String(text) = value else { return expected(&choice()) };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| word == text) {
            return Ok(*meaning);
        }
        if unsupported.contains(&text.as_ref()) {
            return Err(Refusal::Unsupported(choice()));
        }
        match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => expected(&format!("{}; did you mean {near:?}?", choice())),
            None => expected(&choice()),
        }
    }
}

/// The name of a service, a backend or a node.
pub(super) fn name(value: &DeValue<'_>) -> Result<Name, Refusal> {
    let name = value.as_str().and_then(|text| Name::new(text).ok());
    name.ok_or_else(|| {
        Refusal::Expected("a name of 1 to 63 letters, digits, '.', '_' or '-'".to_owned())
    })
}

/// The name of a network interface, by the kernel's rules (`dev_valid_name`).
pub(super) fn interface_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let fits = |text: &&str| {
        (1..=INTERFACE_NAME_MAX).contains(&text.len())
            && !matches!(*text, "." | "..")
            && !text
                .contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
    };
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(|| {
        Refusal::Expected(format!(
            "an interface name of 1 to {INTERFACE_NAME_MAX} characters without '/', ':' and spaces"
        ))
    })
}

/// The address of one host, of either family.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, Refusal> {
    let unreadable = || Refusal::Expected(EXPECTED_ADDRESS.to_owned());
    let text = value.as_str().ok_or_else(unreadable)?;
    host_address(text).map_err(|refusal| refusal.unwrap_or_else(unreadable))
}

/// The address of a service or a backend, of either family.
pub(super) fn reachable_address(value: &DeValue<'_>) -> Result<IpAddr, Refusal> {
    let address = address(value)?;
    unreachable(address).map_or(Ok(address), |why| Err(Refusal::Because(why.to_owned())))
}

/// Why an address of one host cannot be a service's or a backend's.
pub(crate) fn unreachable(address: IpAddr) -> Option<&'static str> {
    let IpAddr::V6(v6) = address else { return None };
    if v6.is_unicast_link_local() {
        return Some(
            "a link-local address, which says nothing without an interface; expected a global or \
             unique local one",
        );
    }
    v6.to_ipv4_mapped().map(|_| "an IPv4 address in the form of IPv6; expected it in its own form")
}

/// The address of one host. The error is nothing where the text is no address at all.
pub(super) fn host_address(text: &str) -> Result<IpAddr, Option<Refusal>> {
    let address: IpAddr = text.parse().map_err(|_| None)?;
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ => return Ok(address),
    };
    let message = format!("{kind}; expected the address of one host on the network");
    Err(Some(Refusal::Because(message)))
}

/// An address and port to listen on.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Refusal> {
    let address = value.as_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| {
        Refusal::Expected("an IP address and port, such as \"127.0.0.1:9750\"".to_owned())
    })
}

/// An absolute path.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let path = value.as_str().filter(|text| text.starts_with('/') && !text.contains('\0'));
    path.map(PathBuf::from).ok_or_else(|| Refusal::Expected("an absolute path".to_owned()))
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let socket = path(value)?;
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(socket);
    }
    expected(&format!("a path of at most {SOCKET_PATH_MAX} bytes, the longest of a Unix socket"))
}

/// Text that is not empty and has no zero byte.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, Refusal> {
    let text = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| Refusal::Expected("text, not empty".to_owned()))
}

/// An argument of a command: text that may be empty.
pub(super) fn argument(value: &DeValue<'_>) -> Result<String, Refusal> {
    let text = value.as_str().filter(|text| !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| Refusal::Expected("text".to_owned()))
}

/// An HTTP method: a token (RFC 9110 section 9.1).
pub(super) fn http_method(value: &DeValue<'_>) -> Result<String, Refusal> {
    let fits = |text: &&str| !text.is_empty() && text.bytes().all(is_token_byte);
    let method = value.as_str().filter(fits);
    method
        .map(str::to_owned)
        .ok_or_else(|| Refusal::Expected("an HTTP method such as \"GET\" or \"HEAD\"".to_owned()))
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The target of an HTTP request: path and query.
pub(super) fn http_path(value: &DeValue<'_>) -> Result<String, Refusal> {
    let fits = |text: &&str| {
        let visible = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        text.starts_with('/') && text.bytes().all(visible)
    };
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(|| {
        Refusal::Expected(
            "a path from \"/\" on, such as \"/api/health\", other characters as %XX".to_owned(),
        )
    })
}

/// What a backend calls itself: a DNS name or an address, fit for `Host` and for TLS.
pub(super) fn host(value: &DeValue<'_>) -> Result<String, Refusal> {
    let host = value.as_str().filter(|text| ServerName::try_from(*text).is_ok());
    host.map(str::to_owned).ok_or_else(|| {
        Refusal::Expected("a DNS name or an IP address, without scheme and port".to_owned())
    })
}

/// A status code (`200` or `"200"`) or a class of them (`"2xx"`).
pub(super) fn status_pattern(value: &DeValue<'_>) -> Result<StatusPattern, Refusal> {
    let code = match value {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        DeValue::String(text) => text.as_ref(),
        _ => "",
    };
    let pattern = match code.as_bytes() {
        [class @ b'1'..=b'5', b'x', b'x'] => Some(StatusPattern::Class((class - b'0').into())),
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => code.parse().ok().map(StatusPattern::Code),
        _ => None,
    };
    pattern.ok_or_else(|| {
        Refusal::Expected("a status such as \"2xx\" or \"204\", from 100 to 599".to_owned())
    })
}

/// A value as messages show it.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(integer) => shortened(&integer.to_string()),
        DeValue::Float(float) => shortened(float.as_str()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(array) if array.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text in quotes, on one line and not too long.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

fn shortened(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(QUOTED_MAX).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("{}{more}", start.escape_debug())
}

fn expected<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::Expected(what.to_owned()))
}
