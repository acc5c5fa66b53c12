//! The witnesses: their pings go out, and instances are told of answers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    task::{Context, Poll},
    time::Duration,
};

use tracing::{debug, warn};

use super::Driver;
use crate::vrrp::{
    fsm::Input,
    ping::{PingSocket, Received},
    status::WitnessStatus,
    witness::{Ping, Witness},
};

/// Answers taken from one socket before the pings have their turn.
const BATCH: usize = 64;
/// Until a socket that could not be opened is tried again.
const REOPEN: Duration = Duration::from_millis(250);

/// All of them; none, if there are none.
#[derive(Debug)]
pub(super) struct Witnesses(BTreeMap<IpAddr, Post>);

#[derive(Debug)]
struct Post {
    witness: Witness,
    socket: Option<PingSocket>,
    reopen_at: Duration,
    /// Whether a failure was told that nothing has ended.
    told: bool,
}

impl Witnesses {
    pub(super) fn new(addresses: &[IpAddr], now: Duration) -> Self {
        let post = |address: &IpAddr| {
            let ping = Ping { id: rand::random(), sequence: 0, cookie: rand::random() };
            let witness = Witness::new(ping, now);
            (*address, Post { witness, socket: None, reopen_at: now, told: false })
        };
        Self(addresses.iter().map(post).collect())
    }

    /// When the next ping is due.
    pub(super) fn deadline(&self, urgent: bool) -> Option<Duration> {
        let due = |post: &Post| post.witness.deadline(urgent).max(post.reopen_at);
        self.0.values().map(due).min()
    }

    /// Whether one of the sockets has something.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let sockets = self.0.values().filter_map(|post| post.socket.as_ref());
        // Each is asked, so that each wakes us.
        let ready = sockets.filter(|socket| socket.poll_ready(context).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What is known of them.
    pub(super) fn status(&self, now: Duration) -> Vec<WitnessStatus> {
        let status = |(address, post): (&IpAddr, &Post)| WitnessStatus {
            address: *address,
            answers: post.witness.answers(now),
        };
        self.0.iter().map(status).collect()
    }

    /// An instance waits for an answer.
    pub(super) fn ask(&mut self, now: Duration) {
        self.0.values_mut().for_each(|post| post.witness.ask(now));
    }

    /// Takes all answers in and returns when the latest ping was sent that was answered.
    fn receive(&mut self) -> Option<Duration> {
        let mut latest = None;
        for Post { witness, socket, .. } in self.0.values_mut() {
            let Some(socket) = socket else { continue };
            for _ in 0..BATCH {
                let Some(received) = socket.receive() else { break };
                if let Received::Answer(ping) = received {
                    latest = latest.max(witness.answered(ping));
                }
            }
        }
        latest
    }

    /// Sends the pings that are due.
    fn send(&mut self, urgent: bool, now: Duration) {
        for (address, Post { witness, socket, reopen_at, told }) in &mut self.0 {
            if socket.is_none() && now >= *reopen_at {
                match PingSocket::open(*address) {
                    Ok(opened) => (*socket, *told) = (Some(opened), false),
                    Err(error) => {
                        // Without a route to it there is none now, and may be one later.
                        if !std::mem::replace(told, true) {
                            warn!("{error}");
                        }
                        *reopen_at = now + REOPEN;
                    }
                }
            }
            let Some(open) = socket else { continue };
            if let Some(ping) = witness.tick(urgent, now)
                && let Err(error) = open.send(ping)
            {
                debug!(witness = %address, %error, "a ping was not sent");
                // It goes by the route and the address that it was opened with.
                (*socket, *reopen_at) = (None, now + REOPEN);
            }
        }
    }
}

impl Driver {
    /// Tells instances what witnesses have answered, before they look at their timers.
    pub(super) fn hear_witnesses(&mut self, now: Duration) {
        if let Some(sent) = self.witnesses.receive() {
            self.tell_all(&Input::Answered(sent), now);
        }
    }

    /// Pings the witnesses, after instances may have asked for it.
    pub(super) fn ping_witnesses(&mut self, now: Duration) {
        let urgent = self.is_in_doubt();
        self.witnesses.send(urgent, now);
    }

    /// Whether an instance waits for a sign.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.running.iter().any(|each| each.instance.fsm.is_in_doubt())
    }

    /// Tells each instance the same.
    pub(super) fn tell_all(&mut self, input: &Input<'_>, now: Duration) {
        for position in 0..self.running.len() {
            let outputs = self.running[position].instance.fsm.handle(input.clone(), now);
            self.carry_out(position, outputs);
        }
    }
}
