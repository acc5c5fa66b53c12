//! Traffic figures: the kernel's counters, joined with what the core knows.

use std::{collections::HashMap, sync::Arc};

use lb_common::{layout::BackendCounters, reason::Refusal};

use crate::{
    config::Name,
    core::{BackendId, Status},
    dataplane::Counters,
};

/// What backends that are gone have forwarded, by service: totals never go back while a service
/// lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    services: HashMap<Name, BackendCounters>,
    all: BackendCounters,
}

/// A status without its figures yet, and what they are made of.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) status: Status,
    /// The numbers of its backends, in their order.
    pub(super) numbers: Vec<u16>,
    pub(super) past: Past,
    pub(super) counters: Arc<Counters>,
}

// === impl Past ===

impl Past {
    /// Adds what a backend that is going has forwarded.
    pub(super) fn add(&mut self, id: &BackendId, counters: BackendCounters) {
        add(self.services.entry(id.service.clone()).or_default(), counters);
        add(&mut self.all, counters);
    }

    /// Fills a status' figures in. `numbers` are those of its backends, in their order.
    fn fill(&self, status: &mut Status, numbers: &[u16], counters: &Counters) {
        let end = numbers.iter().max().map_or(0, |highest| usize::from(*highest) + 1);
        let traffic = counters.backends(end);
        let mut figures = numbers.iter().map(|number| traffic.get(usize::from(*number)).copied());
        let mut total = self.all;
        for service in &mut status.services {
            let mut sum = self.services.get(&service.name).copied().unwrap_or_default();
            for backend in &mut service.backends {
                let figures = figures.next().flatten().unwrap_or_default();
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
                Refusal::Answer => &mut status.packets.answer,
                Refusal::HandOn => {
                    status.packets.handed_on += count.packets;
                    continue;
                }
            };
            list.push((count.reason.name().to_owned(), count.packets));
        }
        let echo = counters.echo().into_iter();
        let named = echo.map(|count| (count.outcome.name().to_owned(), count.packets));
        status.packets.echo = named.collect();
    }
}

// === impl Sheet ===

impl Sheet {
    /// Reads the counters: system calls, which the daemon's task does not wait for.
    pub(super) fn complete(mut self) -> Status {
        self.past.fill(&mut self.status, &self.numbers, &self.counters);
        self.status
    }
}

fn add(sum: &mut BackendCounters, more: BackendCounters) {
    sum.sent += more.sent;
    sum.redirected += more.redirected;
    sum.bytes += more.bytes;
    sum.new_flows += more.new_flows;
}
