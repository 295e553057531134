//! Counts what keeps the daemon alive: connections and VMs that run.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The count; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    count: Arc<watch::Sender<usize>>,
}

/// One reason to stay; dropping it takes it back.
#[derive(Debug)]
pub(crate) struct ActivityGuard {
    count: Arc<watch::Sender<usize>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            count: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Activity {
    /// Adds a reason to stay.
    pub(crate) fn begin(&self) -> ActivityGuard {
        self.count.send_modify(|count| *count += 1);
        ActivityGuard {
            count: Arc::clone(&self.count),
        }
    }

    /// Returns when there was no reason to stay for as long as `limit` says; it is asked
    /// anew each time the last reason goes. `None`: not now.
    pub(crate) async fn idle_for(&self, limit: impl Fn() -> Option<Duration>) {
        let mut count = self.count.subscribe();
        loop {
            if count.wait_for(|&count| count == 0).await.is_err() {
                return;
            }
            let Some(limit) = limit() else {
                if count.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep(limit) => return,
                _ = count.wait_for(|&count| count > 0) => {}
            }
        }
    }

    /// Whether a reason to stay comes, or is there, within `limit`.
    pub(crate) async fn begins_within(&self, limit: Duration) -> bool {
        let mut count = self.count.subscribe();
        let begun = count.wait_for(|&count| count > 0);
        tokio::time::timeout(limit, begun).await.is_ok()
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn idle_only_after_the_last_reason_is_gone() {
        let activity = Activity::default();
        let guard = activity.begin();
        let waiter = activity.clone();
        let idle = tokio::spawn(async move {
            waiter.idle_for(|| Some(Duration::from_millis(20))).await;
        });
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(!idle.is_finished());
        drop(guard);
        tokio::time::timeout(Duration::from_secs(5), idle)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn begins_within_sees_what_is_there_and_what_comes() {
        let activity = Activity::default();
        assert!(!activity.begins_within(Duration::from_millis(10)).await);
        let comes = async {
            tokio::task::yield_now().await;
            activity.begin()
        };
        let (seen, guard) = tokio::join!(activity.begins_within(Duration::from_secs(5)), comes);
        assert!(seen);
        assert!(activity.begins_within(Duration::ZERO).await);
        drop(guard);
    }
}
