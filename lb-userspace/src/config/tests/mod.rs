//! What users see of a configuration, right or wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod faults;
mod fragments;
mod meaning;
mod robustness;
mod sync;
mod vrrp;

use super::*;

const EXAMPLE: &str = include_str!("../../../../packaging/weir.toml");

/// The beginning of a good file; what a test adds to the service starts on line 7.
const SERVICE: &str = r#"[[interface]]
name = "eth0"
[[service]]
name = "web"
address = "192.0.2.1"
port = 80
"#;

fn read(text: &str) -> Config {
    parse(text, "weir.toml").unwrap_or_else(|faults| panic!("refused:\n{faults}"))
}

fn service(lines: &str) -> Service {
    read(&format!("{SERVICE}{lines}")).services.remove(0)
}
