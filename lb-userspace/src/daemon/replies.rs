//! Answers to what people and machines ask.

use std::sync::Arc;

use lb_common::{
    layout::Answer,
    reason::{Reason, Refusal},
    steer::Why,
};

use super::{driver::Daemon, traffic::Sheet};
use crate::{
    config,
    control::Request,
    core::{EventKind, ExplainRequest, Explanation},
};

impl Daemon {
    /// Answers a question. Whoever asked may be gone; then nobody hears.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => {
                let sheet = self.sheet();
                tokio::task::spawn_blocking(move || drop(reply.send(sheet.complete())));
            }
            Request::Explain(question, reply) => drop(reply.send(self.explain(&question))),
            Request::Command(command, reply) => {
                let outcome = self.core.command(command, self.clock.now());
                // Done before it is said to be done.
                self.carry_out();
                drop(reply.send(outcome));
            }
            Request::Plan(command, reply) => {
                drop(reply.send(self.core.plan(command, self.clock.now())));
            }
            Request::Vrrp(command, reply) => self.edges.vrrp.command(command, reply),
            Request::Reload(reply) => drop(reply.send(self.reload())),
        }
    }

    fn sheet(&mut self) -> Sheet {
        let mut status = self.core.status();
        if let Some(replication) = &self.replication {
            let now = self.clock.now().monotonic;
            status.sync = Some(replication.status(self.core.digest(), now));
        }
        status.interfaces.clone_from(&self.interfaces);
        status.notices.extend(self.unsaved.as_deref().map(unsaved_notice));
        status.vrrp = self.edges.vrrp.status();
        let (past, counters) = (self.past.clone(), Arc::clone(&self.tables.counters));
        Sheet { status, numbers: self.core.numbers(), past, counters }
    }

    /// Reads the configuration anew.
    pub(super) fn reload(&mut self) -> Result<String, Vec<String>> {
        let outcome = self.try_reload();
        let kind = match &outcome {
            Ok(what) => EventKind::Reloaded { what: what.clone() },
            Err(faults) => {
                let first = faults.first().cloned().unwrap_or_default();
                let reason = match faults.len() {
                    0 | 1 => first,
                    n => format!("{first} (and {} more)", n - 1),
                };
                EventKind::ReloadRefused { reason }
            }
        };
        self.carry_out();
        self.bloated = true;
        self.publish(kind, None);
        outcome
    }

    fn try_reload(&mut self) -> Result<String, Vec<String>> {
        let new = config::load(&self.config_path)
            .map_err(|error| error.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
        let old = &self.config;
        let mut fixed = Vec::new();
        let mut fix = |name, same: bool| {
            if !same {
                fixed.push(name);
            }
        };
        fix("[node]", new.node == old.node);
        fix("[control]", new.control == old.control);
        fix("[admin]", new.admin == old.admin);
        fix("[limits]", new.limits == old.limits);
        fix("[[interface]]", new.interfaces == old.interfaces);
        fix("[sync]", new.sync == old.sync);
        let before = old.services.len();
        let services = new.services.len();
        let backends: usize = new.services.iter().map(|s| s.backends.len()).sum();
        self.core.reload(new.clone(), self.clock.now()).map_err(|error| vec![error])?;
        if let Some(replication) = &mut self.replication {
            replication.reconfigured(&new);
        }
        // What is fixed at the start stays as it was, so that the next reload compares with it.
        self.config.services = new.services;
        self.config.vrrp = new.vrrp;
        self.edges.vrrp.configure(self.config.vrrp.clone(), &[]);
        let mut what = format!("{services} services (before: {before}), {backends} backends");
        if !fixed.is_empty() {
            let notice = format!("changes of {} take effect at the next restart", fixed.join(", "));
            what = format!("{what}; {notice}");
            self.core.notice(notice);
        }
        Ok(what)
    }

    /// Asks the program itself, over the tables as they are.
    fn explain(&mut self, question: &ExplainRequest) -> Explanation {
        let mut answer = Explanation {
            service: self.core.service_at(question.destination, question.protocol),
            backend: None,
            slot: None,
            slot_state: None,
            reason: String::new(),
            verdict: String::new(),
        };
        let told = match self.explainer.ask(question) {
            Ok(told) => told,
            Err(error) => {
                answer.reason = error.to_string();
                return answer;
            }
        };
        if told.reason != Answer::FORWARDED {
            let reason = Reason::ALL.get(told.reason as usize).copied();
            return refused(answer, reason.unwrap_or(Reason::BadTable));
        }
        let number = u16::try_from(told.backend).unwrap_or(u16::MAX);
        answer.service = self.core.service_named(told.service);
        answer.backend = self.core.backend_named(number).map(|id| id.backend);
        answer.slot = Some(told.slot);
        answer.slot_state = self.core.slot_state(told.service, told.slot).map(str::to_owned);
        if told.interface == 0 {
            return refused(answer, Reason::NoNextHop);
        }
        let why = Why::ALL.get(told.why as usize).map_or("unknown", |why| why.name());
        why.clone_into(&mut answer.reason);
        // Packets are taken to arrive by the first interface.
        let ingress = self.attachments.first().map(|attachment| attachment.index);
        let verdict = if ingress == Some(told.interface) { "tx" } else { "redirect" };
        verdict.clone_into(&mut answer.verdict);
        answer
    }
}

fn unsaved_notice(reason: &str) -> String {
    format!("the state is not kept, a restart would lose what changed since: {reason}")
}

fn refused(mut answer: Explanation, reason: Reason) -> Explanation {
    answer.reason = reason.name().replace('_', " ");
    let verdict = match reason.refusal() {
        Refusal::Pass => "pass",
        Refusal::Drop => "drop",
        Refusal::Answer | Refusal::HandOn => "tx",
    };
    verdict.clone_into(&mut answer.verdict);
    answer
}
