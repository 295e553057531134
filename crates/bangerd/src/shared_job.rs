//! Long blocking work that several clients may want at once: done once, its progress told to
//! all, cancelled only when nobody waits for it any more.

use crate::problem::Refusal;
use banger_api::Progress;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;

/// Jobs by what they do.
#[derive(Debug)]
pub(crate) struct SharedJobs<T> {
    jobs: Mutex<HashMap<String, Weak<Job<T>>>>,
}

/// One job, held by everybody who waits for it; the last one that lets go cancels it.
#[derive(Debug)]
struct Job<T> {
    progress: watch::Receiver<Option<Progress>>,
    outcome: watch::Receiver<Option<Result<T, Refusal>>>,
    is_cancelled: Arc<AtomicBool>,
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }
}

/// What the work sees of those who wait.
#[derive(Debug)]
pub(crate) struct JobSink {
    progress: watch::Sender<Option<Progress>>,
    is_cancelled: Arc<AtomicBool>,
}

impl banger_images::ProgressSink for JobSink {
    fn report(&self, progress: banger_images::Progress) {
        self.progress.send_replace(Some(Progress {
            step: progress.step,
            detail: progress.detail,
            done: progress.done,
            total: progress.total,
        }));
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

impl<T> Default for SharedJobs<T> {
    fn default() -> Self {
        Self {
            jobs: Mutex::new(HashMap::new()),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> SharedJobs<T> {
    /// Waits for the job named `key`, starting it with `work` (on a thread that may block) if
    /// none runs. Dropping the future lets go of the job.
    pub(crate) async fn run(
        &self,
        key: &str,
        report: impl Fn(Progress),
        work: impl FnOnce(&JobSink) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let job = self.join(key, work);
        let mut progress = job.progress.clone();
        let mut outcome = job.outcome.clone();
        loop {
            tokio::select! {
                biased;
                done = outcome.wait_for(Option::is_some) => {
                    return match done.ok().and_then(|done| done.clone()) {
                        Some(done) => done,
                        None => Err(Refusal::new(
                            banger_api::ProblemCode::Internal,
                            format!("{key}: the work died"),
                        )),
                    };
                }
                Ok(()) = progress.changed() => {
                    let now = progress.borrow_and_update().clone();
                    if let Some(now) = now {
                        report(now);
                    }
                }
            }
        }
    }

    fn join(
        &self,
        key: &str,
        work: impl FnOnce(&JobSink) -> Result<T, Refusal> + Send + 'static,
    ) -> Arc<Job<T>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.strong_count() > 0);
        if let Some(job) = jobs.get(key).and_then(Weak::upgrade) {
            return job;
        }
        let (progress_in, progress) = watch::channel(None);
        let (outcome_in, outcome) = watch::channel(None);
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let job = Arc::new(Job {
            progress,
            outcome,
            is_cancelled: Arc::clone(&is_cancelled),
        });
        jobs.insert(key.to_owned(), Arc::downgrade(&job));
        let sink = JobSink {
            progress: progress_in,
            is_cancelled,
        };
        // Detached: a cancelled job cleans up after itself.
        drop(tokio::task::spawn_blocking(move || {
            let done = work(&sink);
            outcome_in.send_replace(Some(done));
        }));
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_images::ProgressSink;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    fn wait_until_cancelled(sink: &JobSink) -> Result<u32, Refusal> {
        sink.report(banger_images::Progress {
            step: "begun".into(),
            detail: String::new(),
            done: None,
            total: None,
        });
        while !sink.is_cancelled() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Refusal::cancelled("cancelled"))
    }

    #[tokio::test]
    async fn two_waiters_share_one_job_and_both_hear_progress() {
        let jobs = SharedJobs::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let heard = AtomicUsize::new(0);
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let work = {
            let runs = Arc::clone(&runs);
            move |sink: &JobSink| {
                runs.fetch_add(1, Ordering::SeqCst);
                sink.report(banger_images::Progress {
                    step: "begun".into(),
                    detail: String::new(),
                    done: None,
                    total: None,
                });
                gate.lock().unwrap().recv().unwrap();
                Ok(7)
            }
        };
        let report = |_: Progress| {
            if heard.fetch_add(1, Ordering::SeqCst) == 1 {
                release.send(()).unwrap();
            }
        };
        let first = jobs.run("build", report, work);
        let second = jobs.run("build", report, |_: &JobSink| Ok(8));
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.unwrap(), second.unwrap()), (7, 7));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn cancelled_only_when_the_last_waiter_is_gone() {
        let jobs: Arc<SharedJobs<u32>> = Arc::default();
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let wait = |jobs: Arc<SharedJobs<u32>>| {
            let told = told.clone();
            tokio::spawn(async move {
                jobs.run(
                    "build",
                    move |_| told.send(()).unwrap(),
                    wait_until_cancelled,
                )
                .await
            })
        };
        let first = wait(Arc::clone(&jobs));
        let second = wait(Arc::clone(&jobs));
        hears.recv().await.unwrap();
        hears.recv().await.unwrap();
        let sink = jobs
            .jobs
            .lock()
            .unwrap()
            .get("build")
            .unwrap()
            .upgrade()
            .unwrap();
        let is_cancelled = Arc::clone(&sink.is_cancelled);
        drop(sink);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!is_cancelled.load(Ordering::Relaxed));
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(is_cancelled.load(Ordering::Relaxed));
    }
}
