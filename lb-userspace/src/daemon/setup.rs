//! The start: everything is checked and prepared before anything in the kernel changes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_common::echo::Responder;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Options,
    driver::{Daemon, Edges, Sweeps},
    replication::Replication,
    signals::Signals,
    state::{Lock, Saver, State},
    traffic::Past,
};
use crate::{
    admin::{self, Metrics},
    clock::Clock,
    config::{self, Config, Limits},
    control::{self, EventLog, Handle},
    core::{Core, EventKind, Live},
    dataplane::{
        self, Attachment, Earlier, Explainer, RecordedFlows, Tables, TablesId, Unreadable,
    },
    health::Checker,
    netlink::{self, Resolver},
    sync::Key,
    vrrp::{self, Vrrp},
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
    let lock = own(Lock::take(&config.node.state_dir)?, "node.state_dir", &config.node.state_dir)?;
    let object = read_object(&options)?;
    let key = config.sync.as_ref().map(|sync| Key::load(&sync.key_file)).transpose()?;
    let mut attachments = find_interfaces(&config).await?;
    let (state, mut notices) = State::load(&config.node.state_dir)?;
    dataplane::prepare(&config.node.bpf_dir)?;
    let mut remains = Remains { bpf_dir: config.node.bpf_dir.clone(), tables: None, kept: false };
    let pins = own(Lock::take_pins(&config.node.bpf_dir)?, "node.bpf_dir", &config.node.bpf_dir)?;
    let (id, adopted) = choose_tables(&state, &config, key.as_ref());
    remains.tables = (!adopted).then(|| id.clone());
    let tables = Tables::open(&object, &id, &config.node.bpf_dir)?;
    let echo = echo(&config, key.as_ref(), &id, &tables);
    for attachment in &mut attachments {
        attachment.echo = echo.as_ref().map(vrrp::Echo::responder).unwrap_or_default();
    }
    // Tables that do not fit stay as they are until these are filled from them and take over.
    let earlier =
        if adopted { None } else { open_earlier(&state, &config.node.bpf_dir, &mut notices) };
    let live = live_tables(earlier.as_ref(), adopted.then_some(&tables), config.limits);
    let explainer = Explainer::load(&object, &id, &config.node.bpf_dir)?;
    let mut core = Core::new(config.clone(), config.limits, &state.core, live, clock.now())
        .map_err(anyhow::Error::msg)?;
    for notice in notices {
        core.notice(notice);
    }
    let replication = start_replication(&config, key, &id, clock).await?;
    let control = control::Server::bind(&config.control)?;
    let admin = admin::Server::bind(config.admin.listen).await?;

    let events = EventLog::default();
    let (request_sender, requests) = mpsc::channel(REQUESTS_WAITING);
    let (report_sender, health) = mpsc::channel(REPORTS_WAITING);
    let (netlink_sender, netlink) = mpsc::channel(REPORTS_WAITING);
    let (ready, readiness) = watch::channel(false);
    let (shutdown, shutting_down) = watch::channel(false);
    let handle = Handle { requests: request_sender, events: events.clone() };
    let replaces = !adopted && config.node.bpf_dir.join("links").exists();
    let edges = Edges {
        checker: Checker::new(report_sender, clock),
        resolver: Resolver::start(netlink_sender).await?,
        saver: Saver::start(&config.node.state_dir)?,
        metrics: Metrics::default(),
        events,
        requests,
        health,
        netlink,
        signals: Signals::listen()?,
        vrrp: Vrrp::start(clock, echo, config.sync.as_ref(), tables.virtual_macs.clone())?,
    };
    let mut daemon = Daemon {
        core,
        explainer,
        sweeps: Sweeps::default(),
        clock,
        config_path,
        config,
        object,
        tables,
        id,
        attachments,
        interfaces: Vec::new(),
        packet_logs: Vec::new(),
        unattached: BTreeSet::new(),
        past: Past::default(),
        arrivals: None,
        unsaved: None,
        outdated: false,
        bloated: true,
        lacked_tables: None,
        replication,
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
    take_over(&mut daemon, earlier.as_ref()).inspect_err(|_| {
        if !adopted {
            // The tables of the run before are still the ones that packets go by.
            daemon.edges.saver.save_now(state.clone());
        }
    })?;
    remains.kept = true;
    daemon.start_vrrp(&state.vrrp);
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

/// The lock of a directory that `key` names, which must be this daemon's alone.
fn own(lock: Option<Lock>, key: &str, directory: &Path) -> Result<Lock> {
    let Some(lock) = lock else {
        bail!("another `weir run` works with {}; give this one its own {key}", directory.display());
    };
    Ok(lock)
}

/// The XDP program: a file's, if one is named, else the one built in.
fn read_object(options: &Options) -> Result<Vec<u8>> {
    match &options.object {
        Some(path) => fs::read(path).with_context(|| format!("reading {}", path.display())),
        None => Ok(dataplane::OBJECT.to_vec()),
    }
}

/// Looks for peers, if there is a key to share with them.
async fn start_replication(
    config: &Config,
    key: Option<Key>,
    id: &TablesId,
    clock: Clock,
) -> Result<Option<Replication>> {
    let Some(key) = key else { return Ok(None) };
    let recorded = RecordedFlows::open(id, &config.node.bpf_dir)?;
    Ok(Replication::start(config, key, recorded, clock.now().monotonic).await?)
}

/// How hosts are probed, and how they are answered, if `[sync]` asks for it.
fn echo(config: &Config, key: Option<&Key>, id: &TablesId, tables: &Tables) -> Option<vrrp::Echo> {
    let (sync, key) = (config.sync.as_ref()?, key?);
    let (interval, port) = (sync.probe, sync.listen.port());
    let (key, heart, predecessor) =
        (key.echo_key(), tables.heart.clone(), tables.predecessor.clone());
    let echo = vrrp::Echo { interval, port, node: id.id, key, heart, predecessor };
    (!interval.is_zero()).then_some(echo)
}

/// Attaches the program, with the records of flows that the tables of the run before hold.
fn take_over(daemon: &mut Daemon, earlier: Option<&Earlier>) -> Result<()> {
    copy_records(earlier, &daemon.tables)?;
    daemon.attach_all()?;
    // Once more, for the flows that were recorded until the program was swapped.
    copy_records(earlier, &daemon.tables)
}

/// The tables of the run before, if they can be read; if not, everyone is told.
fn open_earlier(state: &State, bpf_dir: &Path, notices: &mut Vec<String>) -> Option<Earlier> {
    let id = state.tables.as_ref()?;
    match Earlier::open(id, bpf_dir) {
        Ok(earlier) => {
            info!(layout = id.layout, "new tables are filled from those of the run before");
            Some(earlier)
        }
        Err(Unreadable::Gone) => None,
        Err(error) => {
            let notice = format!(
                "the tables of the run before cannot be read, so this one starts with empty ones, \
                 and connections may have moved: {error}"
            );
            warn!("{notice}");
            notices.push(notice);
            None
        }
    }
}

/// The tables that packets go by until the program is attached anew.
fn live_tables<'t>(
    earlier: Option<&'t Earlier>,
    adopted: Option<&'t Tables>,
    limits: Limits,
) -> Option<Live<'t>> {
    let fills = |earlier: &'t Earlier| Live {
        tables: &earlier.mapped,
        limits: earlier.limits,
        ours: false,
    };
    let goes_on = |tables: &'t Tables| Live { tables: &*tables.mapped, limits, ours: true };
    earlier.map(fills).or(adopted.map(goes_on))
}

/// Copies the records of flows into new tables.
fn copy_records(earlier: Option<&Earlier>, tables: &Tables) -> Result<()> {
    if let Some(earlier) = earlier {
        earlier.copy_records(&tables.records).context("copying the records of flows")?;
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
fn choose_tables(state: &State, config: &Config, key: Option<&Key>) -> (TablesId, bool) {
    let shared = key.map(Key::hash_seed);
    let fits = |id: &TablesId| {
        id.fits(config.limits)
            && shared.is_none_or(|seed| seed == id.seed)
            && Tables::exist(id, &config.node.bpf_dir)
    };
    let (mut id, adopted) = match &state.tables {
        Some(id) if fits(id) => (id.clone(), true),
        earlier => {
            // The secret stays, so that flows keep their slots; unless it is to be the peers'.
            let seed = shared.or_else(|| earlier.as_ref().map(|id| id.seed));
            (TablesId::new(config.limits, seed.unwrap_or_else(rand::random)), false)
        }
    };
    id.tells = key.is_some();
    (id, adopted)
}

/// Looks every configured interface up.
async fn find_interfaces(config: &Config) -> Result<Vec<Attachment>> {
    let mut found = Vec::with_capacity(config.interfaces.len());
    for (place, wanted) in (0..).zip(&config.interfaces) {
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
            place,
            mode: wanted.mode,
            echo: Responder::default(),
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
