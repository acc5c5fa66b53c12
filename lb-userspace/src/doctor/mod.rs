//! `weir doctor`: what commonly breaks or slows the traffic's way, found before clients tell of it.
//!
//! `gather` asks the kernel, the network adapters and the segment for facts; `judge` finds in
//! them what is wrong, one file a story, without any I/O. The daemon's own word on services, backends
//! and interfaces is its `status`. Nothing is changed.

mod facts;
mod finding;
mod gather;
mod judge;

use serde::Serialize;

pub use self::finding::{Finding, Kind};
use crate::{config::Name, core::Status};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What is wrong, each with its remedy.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub skipped: Vec<String>,
}

/// Looks at everything, or at what concerns one service. Takes a second and a half: so long a machine
/// of the segment may take to answer.
///
/// # Errors
///
/// [`crate::netlink::Error`]: the kernel does not tell of interfaces and routes.
pub async fn run(status: &Status, service: Option<&Name>) -> Result<Report, crate::netlink::Error> {
    let scope = Scope { status, service };
    let (facts, skipped) = gather::all(scope).await?;
    Ok(Report { findings: judge::all(scope, &facts), skipped })
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
struct Scope<'s> {
    status: &'s Status,
    service: Option<&'s Name>,
}

impl<'s> Scope<'s> {
    /// The services in question.
    fn services(self) -> impl Iterator<Item = &'s crate::core::status::ServiceStatus> {
        let wanted = move |name: &Name| self.service.is_none_or(|service| service == name);
        self.status.services.iter().filter(move |service| wanted(&service.name))
    }
}
