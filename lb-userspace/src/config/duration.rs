//! Durations as people write them: `"250ms"`, `"1.5s"`, `"1h"`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(r#"a duration is a number and a unit, such as "250ms", "3s", "1.5s", "1m" or "1h""#)]
pub struct InvalidDuration;

/// Reads a duration: a decimal number and one of the units `ms`, `s`, `m`, `h`.
///
/// # Errors
///
/// [`InvalidDuration`] for every other text; numbers above 9 999 999 999 or with more than nine
/// decimals are refused too.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let unit_start = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(InvalidDuration)?;
    let (number, unit) = text.split_at(unit_start);
    let unit_nanos: u128 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(InvalidDuration),
    };
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (number, None),
    };
    let mut nanos = digits(whole, 10)? * unit_nanos;
    if let Some(decimals) = decimals {
        let scale = (0..decimals.len().min(9)).fold(1, |scale: u128, _| scale * 10);
        nanos += digits(decimals, 9)? * unit_nanos / scale;
    }
    // Ten digits of hours are 3.6e22 nanoseconds: the seconds fit into 64 bits.
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| InvalidDuration)?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| InvalidDuration)?;
    Ok(Duration::new(seconds, rest))
}

fn digits(text: &str, length_max: usize) -> Result<u128, InvalidDuration> {
    if text.is_empty() || text.len() > length_max || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidDuration);
    }
    text.parse().map_err(|_| InvalidDuration)
}

/// A duration as [`parse_duration`] reads it, in the largest unit without decimals.
pub(super) fn display_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}
