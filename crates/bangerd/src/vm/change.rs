//! What is decided otherwise about a VM that is there: applied by its driver, stored before it is
//! acknowledged.

use super::driver::{Driver, answer};
use super::handle::Waiter;
use super::moment::Moment;
use super::plan::VmChange;
use crate::problem::Refusal;
use crate::ssh;
use banger_api::{EventKind, RestartPolicy};

impl Driver {
    /// Changes the plan; what the change means for a life that goes on comes with the next one.
    pub(super) async fn change(&mut self, change: &VmChange, waiter: Waiter) {
        let changed = self.try_change(change).await;
        answer(waiter, changed);
    }

    async fn try_change(&mut self, change: &VmChange) -> Result<(), Refusal> {
        let plan = change.apply(&self.record.plan)?;
        let before = self.record.clone();
        // A limit that is set counts from now on, also one that is set again.
        if matches!(change, VmChange::Set { asked, .. } if asked.ttl_ms.is_some()) {
            self.record.lease = Some(Moment::now());
        }
        if plan.restart == RestartPolicy::No {
            self.record.retry = None;
        }
        self.record.plan = plan;
        if self.record == before {
            return Ok(());
        }
        // The database decides whether a name is free: also for VMs that are not meant to last.
        if let Err(refusal) = self.store().await {
            self.record = before;
            return Err(refusal);
        }
        self.publish();
        let (old, new) = (&before.plan.name, &self.record.plan.name);
        if old != new {
            tracing::info!(vm = %self.record.id, %old, %new, "renamed");
            self.tell(EventKind::Renamed, Some((old.as_str(), "")));
            if self.place.host_key().exists()
                && let Err(error) = ssh::write_known_hosts(&self.daemon).await
            {
                tracing::warn!(vm = %self.record.id, %error, "pin the host key by the new name");
            }
        }
        Ok(())
    }
}
