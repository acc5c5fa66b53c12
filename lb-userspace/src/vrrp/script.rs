//! Tracked programs: each runs on its beat, and its successes and failures in a row decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};

use crate::{clock::every, config::TrackScript, health};

/// The programs that run; dropping it ends them.
#[derive(Debug)]
pub(super) struct Scripts {
    running: BTreeMap<TrackScript, AbortHandle>,
    reports: mpsc::Sender<(TrackScript, bool)>,
}

/// Rise and fall: the first outcome decides at once, later ones in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Verdict {
    passes: Option<bool>,
    contrary: u32,
}

impl Scripts {
    pub(super) fn new(reports: mpsc::Sender<(TrackScript, bool)>) -> Self {
        Self { running: BTreeMap::new(), reports }
    }

    /// Runs these and no others; those that run already are not disturbed.
    pub(super) fn set(&mut self, wanted: impl Iterator<Item = TrackScript>) {
        let mut before = std::mem::take(&mut self.running);
        // The same program may be tracked twice.
        for script in wanted.collect::<BTreeSet<_>>() {
            let handle = before.remove(&script).unwrap_or_else(|| {
                tokio::spawn(repeat(script.clone(), self.reports.clone())).abort_handle()
            });
            self.running.insert(script, handle);
        }
        before.values().for_each(AbortHandle::abort);
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

async fn repeat(script: TrackScript, reports: mpsc::Sender<(TrackScript, bool)>) {
    // One at a time, also if one cannot even be killed.
    let turns = Arc::new(Semaphore::new(1));
    let mut beat = every(script.interval.max(Duration::from_millis(1)));
    let mut verdict = Verdict::default();
    loop {
        beat.tick().await;
        // Never closed.
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let outcome = health::run_script(&script.command, &[], script.timeout, turn).await;
        if let Err(reason) = &outcome {
            tracing::debug!(program = script.command[0], reason, "a tracked script failed");
        }
        let after = verdict.after(outcome.is_ok(), script.rise, script.fall);
        let news = after.passes.filter(|_| after.passes != verdict.passes);
        verdict = after;
        if let Some(passes) = news
            && reports.send((script.clone(), passes)).await.is_err()
        {
            return;
        }
    }
}

impl Verdict {
    fn after(self, passed: bool, rise: u32, fall: u32) -> Self {
        let needed = if passed { rise } else { fall };
        match self.passes {
            None => Self { passes: Some(passed), contrary: 0 },
            Some(before) if before == passed => Self { contrary: 0, ..self },
            Some(_) if self.contrary + 1 >= needed => Self { passes: Some(passed), contrary: 0 },
            Some(_) => Self { contrary: self.contrary + 1, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outcome_decides_at_once_and_later_ones_in_a_row() {
        let mut verdict = Verdict::default();
        let mut verdicts = String::new();
        for outcome in "+--+---+-++".chars() {
            verdict = verdict.after(outcome == '+', 2, 3);
            verdicts.push(if verdict.passes == Some(true) { '+' } else { '-' });
        }
        assert_eq!(verdicts, "++++++----+");
    }
}
