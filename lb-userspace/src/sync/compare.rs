//! The configuration as far as peers should agree on it: as lines to hash, to send, to compare.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::config::{Config, HealthCheck, Service};

/// Differences that are told; more are counted.
const TOLD_MAX: usize = 8;

/// One line a setting, as `service web: port = 80`, sorted.
pub fn lines(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for service in &config.services {
        let mut line = |key: &str, value: String| {
            lines.push(format!("service {}: {key} = {value}", service.name));
        };
        for (key, value) in settings(service) {
            line(key, value);
        }
        for backend in &service.backends {
            let value = format!("{}, weight {}", backend.address, backend.weight);
            line(&format!("backend {}", backend.name), value);
        }
    }
    lines.sort();
    lines
}

/// A hash of lines: the same if and only if they are, as far as anybody will ever see.
pub fn hash(lines: &[String]) -> u64 {
    let mut digest = Sha256::new();
    for line in lines {
        digest.update(line);
        digest.update([0]);
    }
    let bytes: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What differs, each in a few words with both values; none if all is the same.
pub fn differences(ours: &[String], theirs: &[String], peer: &str) -> Vec<String> {
    let (here, there) = (by_key(ours), by_key(theirs));
    let mut found: Vec<String> = here
        .iter()
        .filter(|(key, value)| there.get(*key) != Some(value))
        .map(|(key, value)| match there.get(key) {
            Some(other) => format!("{key} is {value} here and {other} on {peer}"),
            None => format!("{key} is {value} here and not set on {peer}"),
        })
        .collect();
    let missing = there.iter().filter(|(key, _)| !here.contains_key(*key));
    found.extend(missing.map(|(key, value)| format!("{key} is {value} on {peer} and not here")));
    let more = found.len().saturating_sub(TOLD_MAX);
    found.truncate(TOLD_MAX);
    if more > 0 {
        found.push(format!("{more} more differences"));
    }
    found
}

fn by_key(lines: &[String]) -> BTreeMap<&str, &str> {
    lines.iter().filter_map(|line| line.split_once(" = ")).collect()
}

fn settings(service: &Service) -> Vec<(&'static str, String)> {
    let HealthCheck { kind, port, interval, timeout, rise, fall } = &service.health;
    vec![
        ("address", service.address.to_string()),
        ("port", service.port.to_string()),
        ("protocol", service.protocol.to_string()),
        ("algorithm", format!("{:?}", service.algorithm)),
        ("forward", format!("{:?}", service.forward)),
        ("ring", service.ring.to_string()),
        ("idle_timeout", format!("{:?}", service.idle_timeout)),
        ("on_empty", format!("{:?}", service.on_empty)),
        ("ping", service.ping.to_string()),
        ("slow_start", format!("{:?}", service.slow_start)),
        ("panic_threshold", format!("{:?}", service.panic_threshold)),
        ("health", format!("{kind:?} port {port}")),
        ("health times", format!("{interval:?} {timeout:?} rise {rise} fall {fall}")),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn config(service: &str, backends: &[&str]) -> Config {
        let mut text = format!(
            "[[interface]]\nname = \"x\"\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1\"\n\
             {service}\n"
        );
        for (number, address) in (1..).zip(backends) {
            text +=
                &format!("[[service.backend]]\nname = \"b{number}\"\naddress = \"{address}\"\n");
        }
        crate::config::parse(&text, "test").unwrap()
    }

    #[test]
    fn the_same_configuration_has_the_same_hash_in_any_order() {
        let one = lines(&config("port = 80\nring = 1009", &["10.0.0.1", "10.0.0.2"]));
        let other = lines(&config("ring = 1009\nport = 80", &["10.0.0.1", "10.0.0.2"]));
        assert_eq!(hash(&one), hash(&other));
        assert!(differences(&one, &other, "lb-2").is_empty());
    }

    #[test]
    fn what_differs_is_said_with_both_values() {
        let ours = lines(&config("port = 80\nidle_timeout = \"1h\"", &["10.0.0.1", "10.0.0.2"]));
        let theirs = lines(&config("port = 80\nidle_timeout = \"2h\"", &["10.0.0.1"]));
        assert_ne!(hash(&ours), hash(&theirs));
        assert_eq!(
            differences(&ours, &theirs, "lb-2"),
            [
                "service web: backend b2 is 10.0.0.2, weight 1 here and not set on lb-2",
                "service web: idle_timeout is 3600s here and 7200s on lb-2",
            ]
        );
        assert_eq!(
            differences(&theirs, &ours, "lb-1")[1],
            "service web: backend b2 is 10.0.0.2, weight 1 on lb-1 and not here"
        );
    }

    #[test]
    fn many_differences_are_counted() {
        let addresses: Vec<String> = (1..100).map(|i| format!("10.0.0.{i}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let ours = lines(&config("port = 80", &addresses));
        let theirs = lines(&config("port = 80", &[]));
        let found = differences(&ours, &theirs, "lb-2");
        assert_eq!(found.len(), TOLD_MAX + 1);
        assert_eq!(found.last().unwrap(), "91 more differences");
    }
}
