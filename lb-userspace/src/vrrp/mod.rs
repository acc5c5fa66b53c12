//! VRRP: which balancer has the virtual addresses (RFC 9568, and RFC 3768 for older peers).
//!
//! [`packet`] reads and writes adverts, [`fsm`] decides, [`instance`] joins the two with a
//! configuration, [`track`] draws conclusions from what is tracked, [`announce`] writes the frames
//! that move an address, [`echo`] tells from probes whether a host lives, [`second_chance`] for how
//! long it is asked about flows: all without I/O. `io` has the sockets, `keeper` the addresses on the
//! interfaces, `script` the tracked programs; `driver` ties them together on a thread of its own,
//! since adverts must not wait for anything else that the daemon does.

pub mod announce;
pub mod auth;
mod driver;
pub mod echo;
mod error;
mod fence;
pub mod fsm;
mod group;
pub mod instance;
pub(crate) mod io;
mod keeper;
pub mod packet;
mod ping;
mod probe;
mod script;
pub mod second_chance;
pub mod status;
pub mod track;
pub mod witness;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process, thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{echo::Echo, error::Error, instance::Told, status::VrrpStatus, track::DaemonFacts};
use crate::{
    clock::Clock,
    config::{self, Name, Prefix},
    core::CommandError,
    dataplane::VirtualMacs,
};

/// Reports that may wait for the daemon; what comes on top is only logged.
const REPORTS_WAITING: usize = 1024;
/// Requests that may wait for the thread.
const REQUESTS_WAITING: usize = 64;

/// What happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its name.
    pub instance: Name,
    /// What.
    pub told: Told,
}

/// What operators can ask of an instance, and of the whole group that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VrrpCommand {
    /// Become the master now.
    Preempt(Name),
    /// Give the addresses up as soon as another router takes them.
    Release(Name),
}

/// An address that VRRP may have put on an interface: what a killed daemon leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldAddress {
    /// The interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub length: u8,
}

/// What the thread is to run.
#[derive(Debug, Clone, Default)]
struct Wanted {
    instances: Vec<config::Vrrp>,
    leftovers: BTreeSet<HeldAddress>,
}

#[derive(Debug)]
enum Request {
    Command(VrrpCommand, oneshot::Sender<Result<String, CommandError>>),
    Leave(oneshot::Sender<()>),
}

/// The handle of the thread; dropping it ends the thread, which leaves everything as it is.
#[derive(Debug)]
pub struct Vrrp {
    wanted: watch::Sender<Wanted>,
    facts: watch::Sender<DaemonFacts>,
    arrived: watch::Sender<BTreeMap<IpAddr, u64>>,
    spoke: watch::Sender<Duration>,
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Vec<VrrpStatus>>,
    reports: mpsc::Receiver<Report>,
}

impl Vrrp {
    /// Starts the thread, without instances. With `echo`, the hosts of other routers are probed.
    /// `macs` are told of virtual routers' Ethernet addresses.
    /// Of `sync`, the witnesses and the fence are heeded.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`]
    pub fn start(
        clock: Clock,
        echo: Option<Echo>,
        sync: Option<&config::Sync>,
        macs: VirtualMacs,
    ) -> Result<Self, Error> {
        let peers = sync.map(driver::Peers::from).unwrap_or_default();
        let (wanted, wanted_here) = watch::channel(Wanted::default());
        let (facts, facts_here) = watch::channel(DaemonFacts::default());
        let (spoke, spoke_here) = watch::channel(Duration::ZERO);
        let (arrived, arrived_here) = watch::channel(BTreeMap::new());
        let (requests, requests_here) = mpsc::channel(REQUESTS_WAITING);
        let (status_there, status) = watch::channel(Vec::new());
        let (reports_there, reports) = mpsc::channel(REPORTS_WAITING);
        let edges = driver::Edges {
            wanted: wanted_here,
            facts: facts_here,
            arrived: arrived_here,
            spoke: spoke_here,
            requests: requests_here,
            status: status_there,
            reports: reports_there,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Thread(error.to_string()))?;
        thread::Builder::new()
            .name("weir-vrrp".to_owned())
            .spawn(move || {
                let _guard = Guard;
                runtime.block_on(driver::run(clock, echo, peers, macs, edges));
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self { wanted, facts, arrived, spoke, requests, status, reports })
    }

    /// Runs these instances. Those that are unchanged are not disturbed; those that are gone
    /// leave in order. Of `leftovers`, addresses of an earlier run, those that no instance has are
    /// taken off.
    pub fn configure(&self, instances: Vec<config::Vrrp>, leftovers: &[HeldAddress]) {
        let leftovers = leftovers.iter().cloned().collect();
        self.wanted.send_replace(Wanted { instances, leftovers });
    }

    /// Tells what VRRP follows.
    pub fn set_facts(&self, facts: DaemonFacts) {
        self.facts.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
    }

    /// Tells when a peer last said something, by the monotonic clock.
    pub fn peer_spoke(&self, time: Duration) {
        self.spoke.send_if_modified(|known| {
            let later = time > *known;
            *known = time.max(*known);
            later
        });
    }

    /// Where to tell how many packets have arrived for each address of a service, in all; about once
    /// a second, while there are backups.
    pub fn arrived(&self) -> watch::Sender<BTreeMap<IpAddr, u64>> {
        self.arrived.clone()
    }

    /// All instances at a glance, in the order of the configuration.
    pub fn status(&self) -> Vec<VrrpStatus> {
        self.status.borrow().clone()
    }

    /// Has a command carried out; `answer` gets one sentence on what was done. Dropped without an
    /// answer if the thread is stuck.
    pub fn command(
        &self,
        command: VrrpCommand,
        answer: oneshot::Sender<Result<String, CommandError>>,
    ) {
        // Full: nobody answers, and whoever asked hears that we are busy.
        let _ = self.requests.try_send(Request::Command(command, answer));
    }

    /// Has all instances leave in order. Answered when others have the addresses or nobody wants
    /// them, and they are off.
    pub fn leave(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        let _ = self.requests.try_send(Request::Leave(done));
        wait
    }

    /// Waits for the next report; for ever once the thread has ended. Cancel safe.
    pub async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// The addresses that a configuration may put on interfaces.
pub fn held_addresses(instances: &[config::Vrrp]) -> Vec<HeldAddress> {
    let of = |instance: &config::Vrrp| {
        let interface = instance.home();
        let held = move |prefix: Prefix| HeldAddress {
            interface: interface.clone(),
            address: prefix.address,
            length: prefix.length,
        };
        instance.placed().map(held).collect::<Vec<_>>()
    };
    instances.iter().flat_map(of).collect()
}

/// A balancer without its VRRP would hold addresses that it does not defend: better none, which
/// the service manager starts anew.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the thread of VRRP failed; weir ends, to be started anew");
            process::abort();
        }
    }
}
