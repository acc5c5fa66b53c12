//! Traffic figures: the kernel's counters, joined with what the core knows.

use std::collections::HashMap;

use lb_common::{layout::BackendCounters, reason::Refusal};

use crate::{
    config::Name,
    core::{BackendId, Core, Status},
    dataplane::Counters,
};

/// What backends that are gone have forwarded, by service: totals never go back while a service
/// lives.
#[derive(Debug, Default)]
pub(super) struct Past {
    services: HashMap<Name, BackendCounters>,
    all: BackendCounters,
}

impl Past {
    /// Adds what a backend that is going has forwarded.
    pub(super) fn add(&mut self, id: &BackendId, counters: BackendCounters) {
        add(self.services.entry(id.service.clone()).or_default(), counters);
        add(&mut self.all, counters);
    }

    /// Fills a status' figures in.
    pub(super) fn fill(&self, status: &mut Status, core: &Core, counters: &Counters) {
        let now: HashMap<BackendId, BackendCounters> =
            core.backend_numbers().map(|(id, number)| (id, counters.backend(number))).collect();
        let mut total = self.all;
        for service in &mut status.services {
            let mut sum = self.services.get(&service.name).copied().unwrap_or_default();
            for backend in &mut service.backends {
                let id = BackendId { service: service.name.clone(), backend: backend.name.clone() };
                let figures = now.get(&id).copied().unwrap_or_default();
                backend.packets = figures.sent + figures.redirected;
                backend.bytes = figures.bytes;
                backend.new_flows = figures.new_flows;
                add(&mut sum, figures);
                add(&mut total, figures);
            }
            service.packets = sum.sent + sum.redirected;
            service.bytes = sum.bytes;
        }
        status.packets.tx = total.sent;
        status.packets.redirect = total.redirected;
        for count in counters.reasons() {
            let list = match count.reason.refusal() {
                Refusal::Pass => &mut status.packets.pass,
                Refusal::Drop => &mut status.packets.drop,
            };
            list.push((count.reason.name().to_owned(), count.packets));
        }
    }
}

fn add(sum: &mut BackendCounters, more: BackendCounters) {
    sum.sent += more.sent;
    sum.redirected += more.redirected;
    sum.bytes += more.bytes;
    sum.new_flows += more.new_flows;
}
