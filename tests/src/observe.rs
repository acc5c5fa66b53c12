//! What a daemon says of itself, in the program's own types, and waiting until it says so.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use ::weir::core::{BackendState, BackendStatus, Event, Explanation, Status};
use anyhow::{Context, Result, ensure};

use crate::Weir;

/// Between two looks; short against every check interval.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Weir {
    /// Its whole state.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.json(&["status"])?)?)
    }

    /// A backend's part of the state.
    ///
    /// # Errors
    ///
    /// It does not answer, or has no such backend.
    pub fn backend(&self, service: &str, backend: &str) -> Result<BackendStatus> {
        let status = self.status()?;
        let mut backends = status
            .services
            .into_iter()
            .filter(|s| s.name.as_str() == service)
            .flat_map(|s| s.backends);
        backends
            .find(|b| b.name.as_str() == backend)
            .with_context(|| format!("there is no backend {service}/{backend}"))
    }

    /// Waits until its state is as wanted, and returns how long that took.
    ///
    /// # Errors
    ///
    /// It does not answer, or its state is another after `limit`.
    pub fn wait_until(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(start.elapsed());
            }
            ensure!(
                start.elapsed() < limit,
                "{what}: not within {limit:?}; the state is {}\n{}",
                serde_json::to_string(&status).unwrap_or_default(),
                self.log()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until every backend of every service is up.
    ///
    /// # Errors
    ///
    /// As for [`Weir::wait_until`], after ten seconds.
    pub fn wait_until_up(&self) -> Result<Duration> {
        self.wait_until(Duration::from_secs(10), "every backend up", |status| {
            let mut backends = status.services.iter().flat_map(|s| &s.backends);
            backends.all(|backend| backend.state == BackendState::Up)
        })
    }

    /// Waits until one backend is in a state.
    ///
    /// # Errors
    ///
    /// As for [`Weir::wait_until`], after `limit`.
    pub fn wait_until_is(
        &self,
        service: &str,
        backend: &str,
        state: BackendState,
        limit: Duration,
    ) -> Result<Duration> {
        let what = format!("{service}/{backend} {state:?}");
        self.wait_until(limit, &what, |status| {
            let mut services = status.services.iter().filter(|s| s.name.as_str() == service);
            services
                .any(|s| s.backends.iter().any(|b| b.name.as_str() == backend && b.state == state))
        })
    }

    /// The events it keeps, oldest first.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn events(&self) -> Result<Vec<Event>> {
        let lines = self.cli(&["events", "--json"])?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Where it says that a flow goes.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn explain(
        &self,
        protocol: &str,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Explanation> {
        let (source, destination) = (source.to_string(), destination.to_string());
        Ok(serde_json::from_value(self.json(&["explain", protocol, &source, &destination])?)?)
    }
}
