//! `weir backend-setup`: what a backend needs to take packets for a VIP and answer them itself.
//!
//! `plan` compares what is there with what is wanted, without touching anything; `system` looks and
//! acts; `record` remembers what was there before, for `--undo`. Every change is said, and a
//! second run finds nothing left to do.

mod endpoint;
mod error;
mod plan;
mod record;
mod system;

use std::path::PathBuf;

use serde::Serialize;

pub use self::{
    endpoint::{Endpoint, InvalidEndpoint},
    error::Error,
    plan::Change,
};
use self::{record::Record, system::System};

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// The services that this machine is a backend of; with `undo`, none means all.
    pub services: Vec<Endpoint>,
    /// Take back what an earlier run did.
    pub undo: bool,
    /// Say it, and do not do it.
    pub dry_run: bool,
    /// Where what was there before is kept.
    pub state_dir: PathBuf,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether it was left undone.
    pub dry_run: bool,
    /// The changes, in their order.
    pub changes: Vec<Change>,
    /// What the operator should know besides.
    pub notes: Vec<String>,
}

/// Prepares this machine, or takes that back.
///
/// # Errors
///
/// [`Error`] with what to do about it. What was done before is done, and recorded: a second run goes
/// on from there, and `undo` takes it back.
pub async fn run(request: &Request) -> Result<Report, Error> {
    let system = System::open().await?;
    let before = Record::load(&request.state_dir)?;
    let found = system.look().await?;
    let (changes, after) = if request.undo {
        plan::undo(&request.services, &before, &found)
    } else {
        plan::setup(&request.services, &before, &found)?
    };
    if !request.dry_run {
        // Before the changes: one that breaks off can be taken back.
        let meanwhile = if request.undo { &before } else { &after };
        meanwhile.store(&request.state_dir)?;
        for change in &changes {
            system.make(change).await?;
        }
        after.store(&request.state_dir)?;
    }
    let notes = if request.undo { Vec::new() } else { system.notes(&request.services) };
    Ok(Report { dry_run: request.dry_run, changes, notes })
}
