//! Asking the daemon's one task, with patience that ends.

use std::time::Duration;

use tokio::{sync::oneshot, time};

use super::{Handle, Request};
use crate::core::Status;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The daemon did not answer in time.
    #[error("weir is busy and did not answer within {0:?}; a change may still be carried out")]
    Busy(Duration),
    /// The daemon is on its way out.
    #[error("weir is shutting down")]
    Gone,
}

impl Handle {
    /// Sends a question and waits for its answer, both together no longer than `patience`.
    ///
    /// # Errors
    ///
    /// [`Unanswered`]. A question that was sent may still be carried out.
    pub async fn ask<T>(
        &self,
        patience: Duration,
        question: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(question(answer)).await.map_err(|_closed| Unanswered::Gone)?;
            answered.await.map_err(|_dropped| Unanswered::Gone)
        };
        time::timeout(patience, asked).await.map_err(|_elapsed| Unanswered::Busy(patience))?
    }

    /// The whole state.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub async fn status(&self, patience: Duration) -> Result<Status, Unanswered> {
        self.ask(patience, Request::Status).await
    }
}
