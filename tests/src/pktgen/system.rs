//! What forwards: Weir, and what one would take otherwise.

use std::{fmt, fmt::Write as _, fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::network::{BACKENDS, BEYOND, Network, PORT, VIP};
use crate::{
    Process, process, weir,
    xdp::{Attachment, Instruction, Program},
};

const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A way to forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Weir, on its direct way (`forward = "l2"`).
    Weir,
    /// IPVS, direct routing, Maglev hashing.
    IpvsMh,
    /// IPVS, direct routing, round robin.
    IpvsRr,
    /// An XDP program that sends everything back: the least that XDP costs.
    XdpTx,
    /// The kernel's own forwarding by its routes, without a balancer.
    Forward,
}

/// A system in place.
pub(super) enum Running<'n> {
    Weir { network: &'n Network, daemon: Process, binary: PathBuf },
    Ipvs(&'n Network),
    Xdp(Attachment),
    Forward,
}

// === impl System ===

impl System {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 5] = [Self::Weir, Self::IpvsMh, Self::IpvsRr, Self::XdpTx, Self::Forward];

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::IpvsMh => "ipvs-mh",
            Self::IpvsRr => "ipvs-rr",
            Self::XdpTx => "xdp-tx",
            Self::Forward => "forward",
        }
    }

    /// Where packets go to so that it forwards them.
    pub(super) fn destination(self) -> Ipv4Addr {
        if self == Self::Forward { BEYOND } else { VIP }
    }

    /// Puts it in place.
    pub(super) fn start(self, network: &Network) -> Result<Running<'_>> {
        let running = match self {
            Self::Weir => start_weir(network)?,
            Self::IpvsMh => start_ipvs(network, "mh")?,
            Self::IpvsRr => start_ipvs(network, "rr")?,
            Self::XdpTx => {
                Running::Xdp(Program::load(&TRANSMIT)?.attach(network.balancer(), "wbal")?)
            }
            Self::Forward => Running::Forward,
        };
        network.place_threads()?;
        Ok(running)
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Running ===

impl Running<'_> {
    /// Takes it away.
    pub(super) fn stop(self) -> Result<()> {
        match self {
            Self::Weir { network, mut daemon, binary } => {
                daemon.terminate(COMMAND_LIMIT)?;
                weir_command(network, &binary, &["detach"]).map(drop)
            }
            Self::Ipvs(network) => ipvsadm(network, &["--clear"]),
            Self::Xdp(attachment) => {
                drop(attachment);
                Ok(())
            }
            Self::Forward => Ok(()),
        }
    }
}

// === helpers ===

/// `XDP_TX`
const TRANSMIT: [Instruction; 2] = [
    Instruction::new(0xb7, 0, 0, 0, 3), // r0 = XDP_TX
    Instruction::new(0x95, 0, 0, 0, 0), // exit
];

fn start_weir(network: &Network) -> Result<Running<'_>> {
    let binary = weir::find_binary()?;
    fs::write(network.file("weir.toml"), configuration(network))?;
    let config = network.file("weir.toml").display().to_string();
    let words = [binary.display().to_string(), "run".into(), "--config".into(), config];
    let mut daemon = network.balancer().spawn("weir", &words)?;
    daemon.wait_until(START_LIMIT, || {
        let status = weir_command(network, &binary, &["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        ensure!(
            status["services"].as_array().is_some_and(|services| {
                services.iter().all(|service| service["health"] == "green")
            }),
            "not every backend is up: {status}"
        );
        Ok(())
    })?;
    Ok(Running::Weir { network, daemon, binary })
}

fn weir_command(network: &Network, binary: &PathBuf, words: &[&str]) -> Result<String> {
    let mut command = network.balancer().command(binary);
    command.args(words).arg("--config").arg(network.file("weir.toml"));
    process::run(command, COMMAND_LIMIT)
}

/// Both protocols, as IPVS has them too.
fn configuration(network: &Network) -> String {
    let mut text = format!(
        "[node]\nname = \"balancer\"\nstate_dir = \"{}\"\nbpf_dir = \"{}\"\n\
         [control]\nsocket = \"{}\"\n[[interface]]\nname = \"wbal\"\nmode = \"native\"\n",
        network.file("state").display(),
        network.pins().display(),
        network.file("weir.sock").display(),
    );
    for protocol in ["tcp", "udp"] {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[service]]\nname = \"{protocol}\"\naddress = \"{VIP}\"\nport = {PORT}\n\
             protocol = \"{protocol}\"\n[service.health]\ntype = \"none\"\n"
        );
        for (number, backend) in BACKENDS.iter().enumerate() {
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"b{number}\"\naddress = \"{backend}\"\n"
            );
        }
    }
    text
}

fn start_ipvs<'n>(network: &'n Network, scheduler: &str) -> Result<Running<'n>> {
    let running = Running::Ipvs(network);
    ipvsadm(network, &["--clear"])?;
    for protocol in ["--tcp-service", "--udp-service"] {
        let service = format!("{VIP}:{PORT}");
        let add = ["--add-service", protocol, &service, "--scheduler", scheduler];
        ipvsadm(network, &add).with_context(|| {
            format!("adding a service of IPVS: the kernel needs ip_vs and ip_vs_{scheduler}")
        })?;
        for backend in BACKENDS {
            let backend = backend.to_string();
            ipvsadm(
                network,
                &["--add-server", protocol, &service, "--real-server", &backend, "--gatewaying"],
            )?;
        }
    }
    Ok(running)
}

fn ipvsadm(network: &Network, words: &[&str]) -> Result<()> {
    let mut command = network.balancer().command("ipvsadm");
    command.args(words);
    process::run(command, COMMAND_LIMIT).map(drop)
}
