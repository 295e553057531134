//! What is left of a life, or of the whole VM, is removed.

use super::driver::{Driver, Phase, answer_some};
use super::handle::Waiter;
use crate::problem::Refusal;
use banger_api::{EventKind, VmState};

impl Driver {
    /// Removes all that there is of the VM, whose VMM is gone. What fails leaves it as it was.
    pub(super) async fn remove(&mut self, waiter: Option<Waiter>) -> Phase {
        let before = self.record.state;
        self.record.state = VmState::Removing;
        self.publish();
        if let Err(error) = self.store_if_kept().await {
            // The removal itself is what counts; a row that stays is found by the next daemon.
            tracing::warn!(vm = %self.record.id, %error, "store the removal");
        }
        let released = self.release().await;
        let erased = match released {
            Ok(()) => self.daemon.erase(&self.record.id).await,
            Err(refusal) => Err(refusal),
        };
        match erased {
            Ok(()) => {
                self.truth.send_modify(|now| now.is_removed = true);
                self.tell(EventKind::Removed, None);
                answer_some(waiter, Ok(()));
                tracing::info!(vm = %self.record.id, "removed");
                Phase::Done
            }
            Err(refusal) => {
                tracing::error!(vm = %self.record.id, %refusal, causes = ?refusal.0.causes, "remove");
                self.record.state = before;
                // Else the next daemon would do what was refused.
                if let Err(error) = self.store_if_kept().await {
                    tracing::error!(vm = %self.record.id, %error, "store that it was not removed");
                }
                self.publish();
                answer_some(waiter, Err(refusal));
                Phase::Idle
            }
        }
    }

    /// Has the helper remove what it made for a life that is over.
    pub(super) async fn release(&mut self) -> Result<(), Refusal> {
        self.daemon.release(&mut self.record).await
    }
}
