//! The wire to the agent: made as soon as the guest answers, made anew on demand.
//!
//! One task owns the making, so that a caller who gives up half-way leaves no half-made wire.

use std::sync::Arc;

use async_trait::async_trait;
use banger_guest::mux::MuxClient;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::BoxStream;
use crate::socket::RunDir;

/// A live wire.
#[async_trait]
pub(super) trait Wire: Send + Sync {
    async fn open(&self, port: u32) -> Result<BoxStream, String>;
    /// Resolves once the wire is lost.
    async fn closed(&self);
}

#[async_trait]
impl Wire for MuxClient {
    async fn open(&self, port: u32) -> Result<BoxStream, String> {
        match MuxClient::open(self, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn closed(&self) {
        MuxClient::closed(self).await;
    }
}

type Dialled = Result<Arc<dyn Wire>, String>;

#[derive(Clone)]
enum State {
    Dialling,
    Up(Arc<dyn Wire>),
    Down(String),
}

/// The wire of one machine.
pub(super) struct Link {
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
    task: AbortHandle,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Dials at once, over a socket in the run directory.
    pub(super) fn over(run: Arc<RunDir>, socket: &'static str) -> Self {
        Self::new(move || {
            let run = Arc::clone(&run);
            Box::pin(async move {
                let io = run
                    .connect(socket)
                    .await
                    .map_err(|error| error.to_string())?;
                match MuxClient::connect(io).await {
                    Ok(client) => Ok(Arc::new(client) as Arc<dyn Wire>),
                    Err(error) => Err(error.to_string()),
                }
            })
        })
    }

    fn new(dial: impl Fn() -> BoxFuture<'static, Dialled> + Send + Sync + 'static) -> Self {
        let (tell, state) = watch::channel(State::Dialling);
        let wanted = Arc::new(Notify::new());
        let task = tokio::spawn(run(dial, tell, Arc::clone(&wanted))).abort_handle();
        Self {
            state,
            wanted,
            task,
        }
    }

    /// A live wire; dials once more if there is none.
    pub(super) async fn wire(&self) -> Dialled {
        let mut state = self.state.clone();
        let mut asked = false;
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Up(wire) => return Ok(wire),
                State::Down(why) if asked => return Err(why),
                State::Down(_) => {
                    asked = true;
                    self.wanted.notify_one();
                }
                State::Dialling => {}
            }
            changed(&mut state).await?;
        }
    }

    /// Opens a stream; where the wire turns out to be lost, over a new one.
    pub(super) async fn open(&self, port: u32) -> Result<BoxStream, String> {
        let wire = self.wire().await?;
        let error = match wire.open(port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let lost = tokio::select! {
            biased;
            () = wire.closed() => true,
            () = std::future::ready(()) => false,
        };
        if !lost {
            return Err(error);
        }
        let mut state = self.state.clone();
        loop {
            let stale = match &*state.borrow_and_update() {
                State::Up(current) => Arc::ptr_eq(current, &wire),
                State::Down(_) | State::Dialling => false,
            };
            if !stale {
                return self.wire().await?.open(port).await;
            }
            changed(&mut state).await?;
        }
    }
}

async fn changed(state: &mut watch::Receiver<State>) -> Result<(), String> {
    state
        .changed()
        .await
        .map_err(|_| "its wire was given up".to_owned())
}

async fn run(
    dial: impl Fn() -> BoxFuture<'static, Dialled>,
    tell: watch::Sender<State>,
    wanted: Arc<Notify>,
) {
    loop {
        let down = match dial().await {
            Ok(wire) => {
                tell.send_replace(State::Up(Arc::clone(&wire)));
                wire.closed().await;
                "its wire was lost".to_owned()
            }
            Err(error) => error,
        };
        tell.send_replace(State::Down(down));
        // Not by itself: a guest that drops every wire must not keep the host busy.
        wanted.notified().await;
        tell.send_replace(State::Dialling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Fake {
        number: usize,
        dead: watch::Sender<bool>,
    }

    #[async_trait]
    impl Wire for Fake {
        async fn open(&self, port: u32) -> Result<BoxStream, String> {
            if *self.dead.borrow() {
                return Err(format!("wire {} is dead", self.number));
            }
            if port == 1 {
                return Err("no such port".into());
            }
            Ok(Box::new(tokio::io::duplex(1).0))
        }

        async fn closed(&self) {
            let mut dead = self.dead.subscribe();
            drop(dead.wait_for(|dead| *dead).await);
        }
    }

    /// The dial of this number (from 0) fails if it is in `failing`.
    fn link(
        failing: &'static [usize],
    ) -> (Link, Arc<AtomicUsize>, watch::Receiver<Option<Arc<Fake>>>) {
        let dials = Arc::new(AtomicUsize::new(0));
        let (tell, last) = watch::channel(None);
        let count = Arc::clone(&dials);
        let link = Link::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let fake = Arc::new(Fake {
                number,
                dead: watch::Sender::new(false),
            });
            tell.send_replace(Some(Arc::clone(&fake)));
            Box::pin(async move {
                if failing.contains(&number) {
                    return Err("no answer".into());
                }
                Ok(fake as Arc<dyn Wire>)
            })
        });
        (link, dials, last)
    }

    #[tokio::test]
    async fn a_lost_wire_is_replaced_on_demand_and_not_before() {
        let (link, dials, last) = link(&[]);
        link.open(5).await.unwrap();
        let first = last.borrow().clone().unwrap();
        first.dead.send_replace(true);
        let mut state = link.state.clone();
        drop(
            state
                .wait_for(|state| matches!(state, State::Down(_)))
                .await,
        );
        assert_eq!(dials.load(Ordering::SeqCst), 1);
        link.open(5).await.unwrap();
        assert_eq!(dials.load(Ordering::SeqCst), 2);
        let second = last.borrow().clone().unwrap();
        second.dead.send_replace(true);
        link.open(5).await.expect("lost under our hands");
        assert_eq!(dials.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failed_dial_is_tried_once_more_and_a_refused_port_is_not() {
        let (link, dials, _) = link(&[0, 2]);
        link.open(5).await.unwrap();
        assert_eq!(dials.load(Ordering::SeqCst), 2);
        let Err(error) = link.open(1).await else {
            panic!("opened")
        };
        assert_eq!(error, "no such port");
        assert_eq!(dials.load(Ordering::SeqCst), 2);
    }
}
