//! The text of `/metrics`: the daemon's state of this moment, and what [`Metrics`] has counted.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use super::metrics::{Checks, Metrics};
use crate::{
    core::{
        BackendId, BackendState, BackendStatus, FlowsStatus, PeerStatus, ServiceStatus,
        SlotsStatus, Status, SyncRole,
    },
    vrrp::{echo::Liveness, fsm::State},
};

/// Writes all metrics in the text format of `OpenMetrics`.
///
/// # Errors
///
/// None in practice: a `String` takes everything.
pub(super) fn text(status: Status, metrics: &Metrics) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("weir");
    let version = Info::new([("version", status.version.clone())]);
    registry.register("build", "The daemon's version", version);
    let suspected = ConstGauge::new(u32::from(status.machine_suspected));
    let help = "Whether so many servers failed together that none is taken out";
    registry.register("machine_suspected", help, suspected);
    metrics.register(&mut registry);
    registry.register_collector(Box::new(Snapshot { status, checks: metrics.checks() }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// The state at the time of a scrape.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    checks: BTreeMap<BackendId, Checks>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.backends(&mut encoder)?;
        self.services(&mut encoder)?;
        self.slots(&mut encoder)?;
        self.flows(&mut encoder)?;
        self.packets(&mut encoder)?;
        self.vrrp(&mut encoder)?;
        self.sync(&mut encoder)?;
        self.health_checks(&mut encoder)
    }
}

/// Name, help text and value of a counter.
type CounterOf<T> = (&'static str, &'static str, fn(&T) -> u64);

type BackendLabels<'a> = [(&'static str, &'a str); 2];

impl Snapshot {
    fn backends(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counters: [CounterOf<BackendStatus>; 3] = [
            ("backend_packets", "Packets forwarded to the backend", |b| b.packets),
            ("backend_bytes", "Bytes forwarded to the backend", |b| b.bytes),
            ("backend_new_flows", "Packets that opened a flow", |b| b.new_flows),
        ];
        for (name, help, value) in counters {
            let samples = self.each_backend().map(|(labels, b)| (labels, value(b)));
            counter(encoder, name, help, samples)?;
        }
        let up = |backend: &BackendStatus| u32::from(backend.state == BackendState::Up);
        let samples = self.each_backend().map(|(labels, b)| (labels, up(b)));
        gauge(encoder, "backend_up", "Whether the backend is up", samples)?;
        let samples = self.each_backend().flat_map(|([service, backend], b)| {
            STATES.map(|(state, name)| {
                ([service, backend, ("state", name)], u32::from(b.state == state))
            })
        });
        gauge(encoder, "backend_state", "1 for the backend's state, 0 for the others", samples)?;
        let samples = self.each_backend().map(|(labels, b)| (labels, b.slots));
        gauge(encoder, "backend_slots", "Slots of the ring that the backend owns", samples)
    }

    fn services(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counters: [CounterOf<ServiceStatus>; 2] = [
            ("service_packets", "Packets forwarded", |s| s.packets),
            ("service_bytes", "Bytes forwarded", |s| s.bytes),
        ];
        for (name, help, value) in counters {
            let services = self.status.services.iter();
            let samples = services.map(|s| ([("service", s.name.as_str())], value(s)));
            counter(encoder, name, help, samples)?;
        }
        let services = self.status.services.iter();
        let samples = services.map(|s| ([("service", s.name.as_str())], u32::from(s.panic)));
        let help = "Whether so few backends are healthy that flows go to all of them";
        gauge(encoder, "service_panic", help, samples)
    }

    fn slots(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let samples = self.status.services.iter().flat_map(|service| {
            let SlotsStatus { settled, moving, exceptions } = service.slots;
            [("settled", settled), ("moving", moving), ("exceptions", exceptions)].map(
                |(state, slots)| ([("service", service.name.as_str()), ("state", state)], slots),
            )
        });
        gauge(encoder, "slots", "Slots of the ring by what they remember", samples)
    }

    fn flows(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let FlowsStatus { recorded, half_open, limit, lost, half_open_lost } = self.status.flows;
        for (name, help, value) in [
            ("flows_recorded", "Flows that are recorded", recorded),
            ("flows_half_open", "Recorded flows of which the opening alone was seen", half_open),
            ("flows_limit", "Flows that can be recorded", limit),
        ] {
            let help = format!("{help}.");
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, &help, None, MetricType::Gauge)?)?;
        }
        let lost = [("confirmed", lost), ("half_open", half_open_lost)];
        let samples = lost.map(|(stage, count)| ([("stage", stage)], count));
        counter(encoder, "flows_lost", "Records that a full table gave up or did not take", samples)
    }

    fn packets(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let packets = &self.status.packets;
        let total = |reasons: &[(String, u64)]| reasons.iter().map(|(_, count)| count).sum::<u64>();
        let verdicts = [
            ("tx", packets.tx + total(&packets.answer) + packets.handed_on),
            ("redirect", packets.redirect),
            ("pass", total(&packets.pass)),
            ("drop", total(&packets.drop)),
        ];
        let samples = verdicts.map(|(verdict, count)| ([("verdict", verdict)], count));
        counter(encoder, "packets", "Packets by what was done with them", samples)?;
        for (name, help, reasons) in [
            ("drops", "Dropped packets by reason", &packets.drop),
            ("passes", "Packets passed to the kernel by reason", &packets.pass),
            ("answers", "Packets answered in a backend's place by reason", &packets.answer),
        ] {
            let samples = reasons.iter().map(|(reason, n)| ([("reason", reason.as_str())], *n));
            counter(encoder, name, help, samples)?;
        }
        let help = "Packets handed on to the balancer that had the virtual addresses before";
        single(encoder, "second_chances", help, &ConstCounter::new(packets.handed_on))
    }

    fn vrrp(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let each = || self.status.vrrp.iter().map(|i| (("instance", i.name.as_str()), i));
        let samples = each().flat_map(|(name, instance)| {
            State::ALL
                .map(|state| ([name, ("state", state.name())], u32::from(instance.state == state)))
        });
        gauge(encoder, "vrrp_state", "1 for the instance's state, 0 for the others", samples)?;
        let samples = each().map(|(name, instance)| ([name], u32::from(instance.priority)));
        gauge(encoder, "vrrp_priority", "The priority, penalties taken off", samples)?;
        let samples = each().map(|(name, instance)| ([name], instance.transitions));
        counter(encoder, "vrrp_transitions", "Changes of state", samples)?;
        let samples = each().flat_map(|(name, instance)| {
            [("sent", instance.sent), ("received", instance.received)]
                .map(|(direction, count)| ([name, ("direction", direction)], count))
        });
        counter(encoder, "vrrp_adverts", "Adverts sent, and valid ones received", samples)?;
        let samples = each().flat_map(|(name, instance)| {
            let discarded = instance.discarded.iter();
            discarded.map(move |(reason, count)| ([name, ("reason", reason.as_str())], *count))
        });
        let help = "Received packets that were no valid adverts";
        counter(encoder, "vrrp_discarded", help, samples)?;
        let samples = each().flat_map(|(name, instance)| {
            ["adverts", "packets"].map(|sign| {
                let seen = instance.split.iter().any(|split| split.sign == sign);
                ([name, ("sign", sign)], u32::from(seen))
            })
        });
        let witnesses = self.status.vrrp.first().into_iter().flat_map(|each| &each.witnesses);
        let answers = witnesses.map(|each| (each.address.to_string(), u32::from(each.answers)));
        let answers: Vec<_> = answers.collect();
        let answers = answers.iter().map(|(name, value)| ([("witness", name.as_str())], *value));
        gauge(encoder, "vrrp_witness", "Whether the witness answers", answers)?;
        let help = "Whether this sign shows that two routers have the addresses";
        gauge(encoder, "vrrp_split", help, samples)?;
        self.hosts(encoder)
    }

    /// What probes of other routers' hosts say.
    fn hosts(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let hosts = self.status.vrrp.iter().flat_map(|instance| {
            let name = instance.name.as_str();
            instance.hosts.iter().map(move |host| (name, host.address.to_string(), host.liveness))
        });
        let hosts: Vec<_> = hosts.collect();
        let samples = hosts.iter().flat_map(|(instance, host, found)| {
            Liveness::ALL.map(|each| {
                let labels = [("instance", *instance), ("host", host), ("liveness", each.name())];
                (labels, u32::from(each == *found))
            })
        });
        gauge(encoder, "vrrp_host", "1 for what probes say of the host, 0 else", samples)?;
        let echo = &self.status.packets.echo;
        let samples = echo.iter().map(|(outcome, n)| ([("outcome", outcome.as_str())], *n));
        counter(encoder, "echo_packets", "Datagrams to the echo's port by outcome", samples)
    }

    fn sync(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(sync) = &self.status.sync else { return Ok(()) };
        let name = |peer: &PeerStatus| peer.address.to_string();
        let connected = sync.peers.iter().map(|peer| (name(peer), u32::from(peer.connected)));
        let samples: Vec<_> = connected.collect();
        let samples = samples.iter().map(|(peer, value)| ([("peer", peer.as_str())], *value));
        gauge(encoder, "sync_connected", "Whether the peer is connected", samples)?;
        let lags = sync.peers.iter().filter_map(|peer| Some((name(peer), peer.lag_seconds?)));
        let lags: Vec<_> = lags.collect();
        let lags =
            lags.iter().map(|(peer, lag)| ([("peer", peer.as_str())], ConstGauge::new(*lag)));
        let help = "How long ago what the peer has not taken in yet was said";
        family(encoder, "sync_lag_seconds", help, lags)?;
        let leads = u32::from(sync.role == SyncRole::Leader);
        let help = "Whether the others go by this node's tables";
        single(encoder, "sync_leader", help, &ConstGauge::new(leads))?;
        let help = "Services whose slots differ between leader and follower";
        single(encoder, "table_digest_mismatch", help, &ConstGauge::new(sync.services_differ))?;
        for (name, help, value) in [
            ("sync_flows_sent", "Recorded flows that peers were told of", sync.flows_sent),
            ("sync_flows_received", "Recorded flows that peers told of", sync.flows_received),
            ("sync_snapshots", "How often a peer was told everything", sync.snapshots),
        ] {
            single(encoder, name, help, &ConstCounter::new(value))?;
        }
        let refused = sync.refused.iter().map(|(why, n)| ([("reason", why.as_str())], *n));
        counter(encoder, "sync_refused", "Connections that were turned away", refused)
    }

    /// Only of backends that exist: a check that was under way when its backend was removed may
    /// be counted after it was forgotten.
    fn health_checks(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let checked = self.status.services.iter().flat_map(|service| {
            service.backends.iter().filter_map(|backend| {
                let service = service.name.clone();
                let id = BackendId { service, backend: backend.name.clone() };
                self.checks.get_key_value(&id)
            })
        });
        let samples = checked.flat_map(|(id, checks)| {
            [("pass", checks.passed), ("fail", checks.failed)].map(|(result, count)| {
                let [service, backend] = labels(id.service.as_str(), id.backend.as_str());
                ([service, backend, ("result", result)], count)
            })
        });
        counter(encoder, "health_checks", "Health checks by result", samples)
    }

    fn each_backend(&self) -> impl Iterator<Item = (BackendLabels<'_>, &BackendStatus)> {
        self.status.services.iter().flat_map(|service| {
            let name = service.name.as_str();
            service.backends.iter().map(move |b| (labels(name, b.name.as_str()), b))
        })
    }
}

/// Every state and its name.
const STATES: [(BackendState, &str); 5] = [
    (BackendState::Up, "up"),
    (BackendState::Suspect, "suspect"),
    (BackendState::Down, "down"),
    (BackendState::Draining, "draining"),
    (BackendState::Maintenance, "maintenance"),
];

fn labels<'a>(service: &'a str, backend: &'a str) -> BackendLabels<'a> {
    [("service", service), ("backend", backend)]
}

fn counter<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    family(encoder, name, help, samples.into_iter().map(|(l, v)| (l, ConstCounter::new(v))))
}

fn gauge<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u32)>,
) -> fmt::Result {
    family(encoder, name, help, samples.into_iter().map(|(l, v)| (l, ConstGauge::new(v))))
}

/// Writes a metric that has one sample, without labels.
fn single(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let help = format!("{help}.");
    metric.encode(encoder.encode_descriptor(name, &help, None, metric.metric_type())?)
}

/// Writes one metric with all its samples; without samples nothing, not even its name.
fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (L, M)>,
) -> fmt::Result {
    let mut samples = samples.peekable();
    let Some((_, first)) = samples.peek() else {
        return Ok(());
    };
    // With a full stop, as the registry writes its own.
    let help = format!("{help}.");
    let mut encoder = encoder.encode_descriptor(name, &help, None, first.metric_type())?;
    for (labels, metric) in samples {
        metric.encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
