//! The command line's grammar. Every command shows an example with `--help`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{
    backend_setup::Endpoint,
    config::{Name, Protocol},
    core::BackendChange,
};

/// Weir: an XDP layer-4 load balancer with health checks and failover built in.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Example:\n  weir check && weir status\n\nExit status: 0 done, 1 refused or \
                        failed, 2 wrong usage, 3 `doctor` found something."
)]
pub struct Cli {
    /// Where to look for the configuration and the daemon.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Place {
    /// The configuration file [default: /etc/weir/weir.toml]
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// The daemon's socket [default: the configuration's, else /run/weir/weir.sock]
    #[arg(long, value_name = "PATH", env = "WEIR_SOCKET", global = true)]
    pub socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon; SIGHUP reloads the configuration, SIGTERM leaves with packets going on
    #[command(after_help = "Example:\n  weir run --config /etc/weir/weir.toml")]
    Run(Run),
    /// Read the configuration and say all that is wrong with it
    #[command(after_help = "Example:\n  weir check --config weir.toml")]
    Check,
    /// Show services, backends, their states and why
    #[command(after_help = "Example:\n  weir status grafana --watch")]
    Status {
        /// Only this service
        #[arg(value_parser = Name::new)]
        service: Option<Name>,
        /// Show it anew every so many seconds, with rates
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
        #[arg(value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "json")]
        watch: Option<u16>,
    },
    /// Change the backends of a service; changes survive restarts
    #[command(after_help = "Example:\n  weir backend add grafana g4 --address 192.168.1.14")]
    #[command(subcommand)]
    Backend(Backend),
    /// Say what a command would move, without doing it
    #[command(after_help = "Example:\n  weir plan backend drain grafana g2")]
    #[command(subcommand)]
    Plan(Plan),
    /// Say where a flow goes, and why; changes nothing
    #[command(after_help = "Example:\n  weir explain tcp 198.51.100.7:40000 192.0.2.10:80")]
    Explain {
        /// tcp or udp
        #[arg(value_parser = protocol)]
        protocol: Protocol,
        /// The client, as address:port
        source: SocketAddr,
        /// The service, as address:port
        destination: SocketAddr,
        /// Ask about the packet that opens the flow, not about a later one (TCP)
        #[arg(long)]
        opening: bool,
    },
    /// Look for what commonly breaks or slows the traffic's way; changes nothing
    ///
    /// Asks the daemon, this machine and its segments. Needs root.
    #[command(after_help = "Example:\n  weir doctor grafana\n\nExit status: 0 nothing found, 3 \
                            something found; 1 and 2 as ever.")]
    Doctor {
        /// Only what concerns this service
        #[arg(value_parser = Name::new)]
        service: Option<Name>,
    },
    /// Show what happened, and when
    #[command(after_help = "Example:\n  weir events --follow")]
    Events {
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// Have the daemon read its configuration anew
    #[command(after_help = "Example:\n  weir check && weir reload")]
    Reload,
    /// Move virtual addresses between balancers as planned
    #[command(subcommand)]
    #[command(after_help = "Example:\n  weir vrrp release front")]
    Vrrp(Vrrp),
    /// Make a key for `[sync]`, for every balancer to have a copy of
    #[command(after_help = "Example:\n  weir sync-key /etc/weir/sync.key && scp \
                            /etc/weir/sync.key lb-2:/etc/weir/")]
    SyncKey {
        /// The file to write, which must not exist; without it the key is printed
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Run on a backend: prepare it to take packets for a VIP and to answer clients itself
    #[command(after_help = "Example:\n  weir backend-setup --service 192.0.2.10:3000/tcp\n  \
                            weir backend-setup --undo")]
    BackendSetup(BackendSetup),
    /// Take program, maps and links out of the kernel: balancing ends
    #[command(after_help = "Example:\n  systemctl stop weir && weir detach")]
    Detach,
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  weir completions bash > \
                            /usr/share/bash-completion/completions/weir")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Another eBPF object than the one built in
    #[arg(long, value_name = "FILE", hide = true)]
    pub object: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or trace, also a target=level list; packet=debug tells
    /// of packets that are not forwarded, packet=trace of all
    #[arg(long, value_name = "LEVEL", env = "WEIR_LOG", default_value = "info")]
    pub log: String,
}

/// Options of `backend-setup`.
#[derive(Debug, Args)]
pub struct BackendSetup {
    /// A service of which this machine is a backend, as VIP:PORT/PROTOCOL; may be given several
    /// times
    #[arg(long = "service", value_name = "VIP:PORT/PROTO", required_unless_present = "undo")]
    pub services: Vec<Endpoint>,
    /// How the balancer forwards, as `forward` of the service's configuration
    #[arg(long, value_enum, default_value = "l2")]
    pub mode: Mode,
    /// Take back what earlier runs did, for these services or for all
    #[arg(long)]
    pub undo: bool,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where what was there before is kept, for --undo
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir")]
    pub state_dir: PathBuf,
}

/// How packets reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// With the backend's Ethernet address: in one segment with the balancer
    L2,
}

/// Changes to a backend.
#[derive(Debug, Subcommand)]
pub enum Backend {
    /// Add a backend that does not exist yet
    #[command(after_help = "Example:\n  weir backend add grafana g4 --address 192.168.1.14")]
    Add {
        /// Which.
        #[command(flatten)]
        target: Target,
        /// Its address
        #[arg(long)]
        address: IpAddr,
        /// What else is known of it.
        #[command(flatten)]
        change: Change,
    },
    /// Change a backend that exists
    #[command(after_help = "Example:\n  weir backend set grafana g4 --weight 2")]
    #[command(group(clap::ArgGroup::new("changes").required(true).multiple(true)
        .args(["address", "port", "weight", "backup"])))]
    Set {
        /// Which.
        #[command(flatten)]
        target: Target,
        /// Its new address
        #[arg(long)]
        address: Option<IpAddr>,
        /// What else changes.
        #[command(flatten)]
        change: Change,
    },
    /// Take a backend out for good, after its connections have ended
    #[command(after_help = "Example:\n  weir backend remove grafana g4")]
    Remove {
        /// Which.
        #[command(flatten)]
        target: Target,
        /// Do not wait: its connections break
        #[arg(long)]
        now: bool,
    },
    /// Give a backend no new connections, and keep its old ones
    #[command(after_help = "Example:\n  weir backend drain grafana g4 && weir events --follow")]
    Drain(Target),
    /// Take a backend out until it is enabled again
    #[command(after_help = "Example:\n  weir backend maintenance grafana g4")]
    Maintenance(Target),
    /// End a backend's maintenance or drain
    #[command(after_help = "Example:\n  weir backend enable grafana g4")]
    Enable(Target),
}

/// Commands that can be planned.
#[derive(Debug, Subcommand)]
pub enum Plan {
    /// A change to the backends of a service: the same words as without `plan`
    #[command(after_help = "Example:\n  weir plan backend remove grafana g2 --now")]
    #[command(subcommand)]
    Backend(Backend),
}

/// Planned switches. All instances of a `sync_group` move with the one that is named.
#[derive(Debug, Subcommand)]
pub enum Vrrp {
    /// Become the master now, if the priority is higher than the master's
    #[command(after_help = "Example:\n  weir vrrp preempt front")]
    Preempt {
        /// The instance
        #[arg(value_parser = Name::new)]
        instance: Name,
    },
    /// Give the addresses up as soon as another balancer takes them, and leave them there
    #[command(after_help = "Example:\n  weir vrrp release front && systemctl stop weir")]
    Release {
        /// The instance
        #[arg(value_parser = Name::new)]
        instance: Name,
    },
}

/// Which backend.
#[derive(Debug, Args)]
pub struct Target {
    /// The service
    #[arg(value_parser = Name::new)]
    pub service: Name,
    /// The backend's name in that service
    #[arg(value_parser = Name::new)]
    pub name: Name,
}

/// What a backend shall be.
#[derive(Debug, Args)]
pub struct Change {
    /// Its port (forward = "nat" only)
    #[arg(long)]
    port: Option<u16>,
    /// Its share of new flows, 0 to 256; 0 gets none
    #[arg(long)]
    weight: Option<u16>,
    /// Serve only when no other can (--backup=false: always)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = ArgAction::Set)]
    backup: Option<bool>,
}

impl Change {
    /// The body of the request.
    pub fn with_address(&self, address: Option<IpAddr>) -> BackendChange {
        BackendChange { address, port: self.port, weight: self.weight, backup: self.backup }
    }
}

fn protocol(text: &str) -> Result<Protocol, &'static str> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("it may be tcp or udp"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:\n  "), "{} has none", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let set = parse("weir backend set web a --weight 0 --backup").expect("parses");
        let Command::Backend(Backend::Set { address, change, .. }) = set else {
            panic!("another command");
        };
        let expected =
            BackendChange { weight: Some(0), backup: Some(true), ..BackendChange::default() };
        assert_eq!(change.with_address(address), expected);
        for refused in [
            "weir backend set web a",
            "weir backend add web a",
            "weir backend add web a/b --address 10.0.0.1",
            "weir backend add web a --address 10.0.0.1 --weight 70000",
            "weir explain icmp 10.0.0.1:1 10.0.0.2:2",
            "weir explain tcp 10.0.0.1 10.0.0.2:2",
            "weir status --watch 0",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
        assert!(parse("weir status web --json").is_ok());
        assert!(parse("weir plan backend set web a --weight 2 --json").is_ok());
        assert!(parse("weir doctor").is_ok());
        assert!(parse("weir doctor web --json").is_ok());
        assert!(parse("weir plan reload").is_err());
        assert!(parse("weir backend-setup --service 192.0.2.10:80/tcp --mode l2").is_ok());
        assert!(parse("weir backend-setup --undo").is_ok());
        assert!(parse("weir backend-setup").is_err());
        assert!(parse("weir backend-setup --service 192.0.2.10:80").is_err());
    }
}
