//! The start: everything is checked and prepared before anything in the kernel changes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_common::layout;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Options,
    driver::{Daemon, Edges},
    signals::Signals,
    state::{Lock, Saver, State},
    traffic::Past,
};
use crate::{
    admin::{self, Metrics},
    clock::Clock,
    config::{self, Config},
    control::{self, EventLog, Handle},
    core::{Core, EventKind, Live},
    dataplane::{self, Attachment, Explainer, Tables, TablesId},
    health::Checker,
    netlink::{self, Resolver},
};

/// Questions that may wait for the daemon's task.
const REQUESTS_WAITING: usize = 128;
/// Reports that may wait; checks and netlink wait when it is full.
const REPORTS_WAITING: usize = 1024;
/// How long new tables may wait for their backends before they replace live ones.
const REPLACE_PATIENCE: Duration = Duration::from_secs(3);

/// Brings the daemon up.
pub(super) async fn start(config_path: PathBuf, options: Options) -> Result<Daemon> {
    let clock = Clock::start();
    let config = config::load(&config_path)?;
    let Some(lock) = Lock::take(&config.node.state_dir)? else {
        bail!(
            "another `weir run` works with {}; give this one its own node.state_dir",
            config.node.state_dir.display()
        );
    };
    let object = match &options.object {
        Some(path) => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        None => dataplane::OBJECT.to_vec(),
    };
    let attachments = find_interfaces(&config).await?;
    let state = State::load(&config.node.state_dir)?;
    dataplane::prepare(&config.node.bpf_dir)?;
    let mut remains = Remains { bpf_dir: config.node.bpf_dir.clone(), tables: None, kept: false };
    let Some(pins) = Lock::take_pins(&config.node.bpf_dir)? else {
        bail!(
            "another `weir run` works with {}; give this one its own node.bpf_dir",
            config.node.bpf_dir.display()
        );
    };
    let (id, adopted) = choose_tables(&state, &config);
    remains.tables = (!adopted).then(|| id.clone());
    let tables = Tables::open(&object, &id, &config.node.bpf_dir)?;
    // Tables of other sizes stay as they are until these are filled from them and take over.
    let earlier = if adopted { None } else { open_earlier(&object, &state, &config.node.bpf_dir)? };
    let live = match (&earlier, &state.tables) {
        (Some(earlier), Some(id)) => Some(Live { tables: &*earlier.mapped, limits: id.limits }),
        _ => adopted.then_some(Live { tables: &*tables.mapped, limits: config.limits }),
    };
    let explainer = Explainer::load(&object, &id, &config.node.bpf_dir)?;
    let core = Core::new(config.clone(), config.limits, &state.core, live, clock.now())
        .map_err(anyhow::Error::msg)?;
    let control = control::Server::bind(&config.control)?;
    let admin = admin::Server::bind(config.admin.listen).await?;

    let events = EventLog::default();
    let metrics = Metrics::default();
    let (request_sender, requests) = mpsc::channel(REQUESTS_WAITING);
    let (report_sender, health) = mpsc::channel(REPORTS_WAITING);
    let (netlink_sender, netlink) = mpsc::channel(REPORTS_WAITING);
    let (ready, readiness) = watch::channel(false);
    let (shutdown, shutting_down) = watch::channel(false);
    let handle = Handle { requests: request_sender, events: events.clone() };
    let saver = Saver::start(&config.node.state_dir)?;
    let replaces = !adopted && config.node.bpf_dir.join("links").exists();
    let edges = Edges {
        checker: Checker::new(report_sender, clock),
        resolver: Resolver::start(netlink_sender).await?,
        saver,
        metrics,
        events,
        requests,
        health,
        netlink,
        signals: Signals::listen()?,
    };
    let mut daemon = Daemon {
        core,
        explainer,
        sweeping: None,
        clock,
        config_path,
        config,
        object,
        tables,
        id,
        attachments,
        interfaces: Vec::new(),
        past: Past::default(),
        sequence: 0,
        stopping: false,
        edges,
        ready,
        shutdown,
        servers: Vec::new(),
        _locks: [lock, pins],
    };
    daemon.carry_out();
    if replaces && earlier.is_none() {
        // The live tables go on serving meanwhile.
        daemon.wait_for_backends(REPLACE_PATIENCE).await;
    }
    if let Err(error) = take_over(&mut daemon, earlier.as_ref()) {
        if !adopted {
            // The tables of the run before are still the ones that packets go by.
            daemon.edges.saver.save_now(&state);
        }
        return Err(error);
    }
    remains.kept = true;
    // Not before the start is certain: dropped here, the servers leave no socket behind. Who asks
    // meanwhile waits to be accepted.
    let metrics = daemon.edges.metrics.clone();
    daemon.servers = vec![
        tokio::spawn(control.run(handle.clone(), shutting_down.clone())),
        tokio::spawn(admin.run(handle, metrics, readiness, shutting_down)),
    ];
    daemon.publish(EventKind::Started { adopted }, None);
    info!(adopted, "weir {} runs", env!("CARGO_PKG_VERSION"));
    Ok(daemon)
}

/// Attaches the program, with the records of flows that tables of other sizes hold.
fn take_over(daemon: &mut Daemon, earlier: Option<&Tables>) -> Result<()> {
    copy_records(earlier, &daemon.tables)?;
    daemon.attach_all()?;
    // Once more, for the flows that were recorded until the program was swapped.
    copy_records(earlier, &daemon.tables)
}

/// The tables of the run before, if their layout is ours.
fn open_earlier(object: &[u8], state: &State, bpf_dir: &Path) -> Result<Option<Tables>> {
    match &state.tables {
        Some(id) if id.layout == layout::VERSION && Tables::exist(id, bpf_dir) => {
            Ok(Some(Tables::open(object, id, bpf_dir)?))
        }
        _ => Ok(None),
    }
}

/// Copies the records of flows into new tables.
fn copy_records(earlier: Option<&Tables>, tables: &Tables) -> Result<()> {
    if let Some(earlier) = earlier {
        earlier.records.copy_to(&tables.records).context("copying the records of flows")?;
    }
    Ok(())
}

/// What a start that fails has made, removed when dropped unless it is to be kept.
struct Remains {
    bpf_dir: PathBuf,
    tables: Option<TablesId>,
    kept: bool,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if !self.kept {
            Tables::discard(&self.bpf_dir, self.tables.as_ref());
        }
    }
}

/// The tables of the run before, if they are there and fit; else new ones.
fn choose_tables(state: &State, config: &Config) -> (TablesId, bool) {
    match &state.tables {
        Some(id) if id.fits(config.limits) && Tables::exist(id, &config.node.bpf_dir) => {
            (id.clone(), true)
        }
        earlier => {
            // The secret stays, so that flows keep their slots.
            let seed = earlier.as_ref().map_or_else(rand::random, |id| id.seed);
            (TablesId::new(config.limits, seed), false)
        }
    }
}

/// Looks every configured interface up.
async fn find_interfaces(config: &Config) -> Result<Vec<Attachment>> {
    let mut found = Vec::with_capacity(config.interfaces.len());
    for wanted in &config.interfaces {
        let link = netlink::interface(&wanted.name).await?;
        if !link.ethernet {
            bail!("{} is no Ethernet interface: weir forwards Ethernet frames", wanted.name);
        }
        if !link.up {
            warn!("{} is down: no packet arrives until it is up", wanted.name);
        }
        found.push(Attachment {
            index: link.index,
            name: link.name,
            mac: link.mac,
            mode: wanted.mode,
        });
    }
    Ok(found)
}

/// Removes tables that an earlier run left and nothing uses any more.
pub(super) fn sweep(bpf_dir: &Path, id: &TablesId) {
    if let Err(error) = Tables::sweep(bpf_dir, Some(id)) {
        warn!("{error}");
    }
}
