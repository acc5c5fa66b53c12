//! What is counted as it happens: health checks, and the time from a fault to its repair.
//!
//! Everything else in `/metrics` is read off the daemon's state when it is asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::core::{BackendId, HealthReport, Phases};

/// Counters that the daemon feeds. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct Metrics {
    checks: Arc<Mutex<BTreeMap<BackendId, Checks>>>,
    check_seconds: Histogram,
    failover_seconds: Family<[(&'static str, &'static str); 1], Histogram>,
}

/// Health checks of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Checks {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            checks: Arc::default(),
            check_seconds: Histogram::new(CHECK_BUCKETS),
            failover_seconds: Family::new_with_constructor(|| Histogram::new(PHASE_BUCKETS)),
        }
    }
}

/// From a connect within the rack to the longest time-outs that make sense, in seconds.
const CHECK_BUCKETS: [f64; 14] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// From writing one table to three failed checks at three seconds, in seconds.
const PHASE_BUCKETS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];

impl Metrics {
    /// Counts a health check and its duration.
    pub fn health_check(&self, report: &HealthReport) {
        let duration = report.finished.monotonic.saturating_sub(report.started.monotonic);
        self.check_seconds.observe(duration.as_secs_f64());
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let checks = checks.entry(report.id.clone()).or_default();
        match report.outcome {
            Ok(()) => checks.passed += 1,
            Err(_) => checks.failed += 1,
        }
    }

    /// Notes how long each phase of a change took that a health check caused.
    pub fn failover(&self, phases: &Phases) {
        let Phases { detect, decide, apply } = *phases;
        for (phase, seconds) in [("detect", detect), ("decide", decide), ("apply", apply)] {
            self.failover_seconds.get_or_create(&[("phase", phase)]).observe(seconds);
        }
    }

    /// Forgets a backend that was removed.
    pub fn forget(&self, id: &BackendId) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The health checks of each backend.
    pub(super) fn checks(&self) -> BTreeMap<BackendId, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the histograms to a registry whose prefix is `weir`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "health_check",
            "How long health checks took",
            Unit::Seconds,
            self.check_seconds.clone(),
        );
        registry.register_with_unit(
            "failover",
            "From a fault to its repair: until it was detected, decided, applied",
            Unit::Seconds,
            self.failover_seconds.clone(),
        );
    }
}
