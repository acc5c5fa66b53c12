//! What a namespace's kernel counts of TCP.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::Namespace;

/// A counter of `/proc/net/snmp`, by its name there: `ActiveOpens`, `RetransSegs` (RFC 4022).
pub(crate) fn tcp_counter(namespace: &Namespace, name: &str) -> Result<u64> {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    counter(&text, name).with_context(|| format!("no {name} in /proc/net/snmp"))
}

fn counter(text: &str, name: &str) -> Option<u64> {
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next()?, tcp.next()?);
    let row: BTreeMap<&str, &str> =
        names.split_whitespace().zip(values.split_whitespace()).collect();
    row.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 17 4\n";
        assert_eq!(counter(snmp, "ActiveOpens"), Some(17));
        assert_eq!(counter(snmp, "RetransSegs"), None);
        assert_eq!(counter("Ip: 1\n", "ActiveOpens"), None);
    }
}
