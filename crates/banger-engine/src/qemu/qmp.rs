//! A small client of QEMU's monitor (QMP): commands with a deadline, and the events that
//! tell why a machine ends. Lines are capped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::EngineError;
use crate::exit::Announced;

/// How long QEMU may take to answer. Generous: emulation on a busy host starves its monitor.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest line taken from QEMU, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// What QEMU announced of its end so far.
pub(super) type Announcement = Arc<Mutex<Option<Announced>>>;

/// The monitor of one machine.
#[derive(Debug)]
pub(super) struct Qmp {
    orders: mpsc::Sender<Order>,
    ready: Mutex<Option<oneshot::Receiver<Result<(), String>>>>,
}

/// A command on its way.
#[derive(Debug)]
struct Order {
    command: &'static str,
    arguments: Option<Value>,
    reply: oneshot::Sender<Result<Value, String>>,
}

impl Qmp {
    /// Speaks QMP over a stream in a task of its own, which ends with the stream.
    pub(super) fn spawn(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        announcement: Announcement,
    ) -> (Self, JoinHandle<()>) {
        let (orders, inbox) = mpsc::channel(8);
        let (tell, ready) = oneshot::channel();
        let session = Session {
            lines: Lines {
                io,
                bytes: Vec::new(),
            },
            announcement,
            pending: None,
            last_id: 0,
        };
        let task = tokio::spawn(session.run(inbox, tell));
        let ready = Mutex::new(Some(ready));
        (Self { orders, ready }, task)
    }

    /// Waits until QEMU has greeted and taken our capabilities. To be called once.
    pub(super) async fn ready(&self) -> Result<(), EngineError> {
        let ready = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(ready) = ready else { return Ok(()) };
        answer("greet", ready).await
    }

    /// Gives a command and waits for its answer.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        arguments: Option<Value>,
    ) -> Result<Value, EngineError> {
        let (reply, answered) = oneshot::channel();
        let order = Order {
            command,
            arguments,
            reply,
        };
        if self.orders.send(order).await.is_err() {
            return Err(EngineError::Control {
                command,
                reason: "its monitor is closed".into(),
            });
        }
        answer(command, answered).await
    }
}

async fn answer<T>(
    command: &'static str,
    answered: oneshot::Receiver<Result<T, String>>,
) -> Result<T, EngineError> {
    let refuse = |reason| EngineError::Control { command, reason };
    match tokio::time::timeout(LIMIT, answered).await {
        Err(_) => Err(EngineError::Silent {
            command,
            limit: LIMIT,
        }),
        Ok(Err(_)) => Err(refuse("its monitor closed".into())),
        Ok(Ok(result)) => result.map_err(refuse),
    }
}

/// The task's state.
#[derive(Debug)]
struct Session<T> {
    lines: Lines<T>,
    announcement: Announcement,
    pending: Option<(u64, oneshot::Sender<Result<Value, String>>)>,
    last_id: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session<T> {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Order>,
        tell: oneshot::Sender<Result<(), String>>,
    ) {
        let greeted = self.greet().await;
        let failed = greeted.is_err();
        // Whoever took over a QEMU that was stuck did not wait.
        let _unheard = tell.send(greeted);
        if failed {
            return;
        }
        loop {
            tokio::select! {
                line = self.lines.next() => match line {
                    Ok(line) => self.take(&line),
                    Err(reason) => return self.end(reason),
                },
                order = inbox.recv(), if self.pending.is_none() => {
                    let Some(order) = order else { return };
                    if order.reply.is_closed() {
                        continue; // it was given up while QEMU was stuck
                    }
                    if let Err(reason) = self.give(order).await {
                        return self.end(reason);
                    }
                }
            }
        }
    }

    async fn greet(&mut self) -> Result<(), String> {
        let greeting = self.lines.next().await?;
        if greeting.get("QMP").is_none() {
            return Err("it does not speak QMP".into());
        }
        let (reply, mut answered) = oneshot::channel();
        self.give(Order {
            command: "qmp_capabilities",
            arguments: None,
            reply,
        })
        .await?;
        loop {
            let line = self.lines.next().await?;
            self.take(&line);
            if let Ok(result) = answered.try_recv() {
                return result.map(drop);
            }
        }
    }

    async fn give(&mut self, order: Order) -> Result<(), String> {
        self.last_id += 1;
        let mut line = json!({ "execute": order.command, "id": self.last_id });
        if let (Some(line), Some(arguments)) = (line.as_object_mut(), order.arguments) {
            line.insert("arguments".into(), arguments);
        }
        self.pending = Some((self.last_id, order.reply));
        let line = format!("{line}\n");
        let sent = self.lines.io.write_all(line.as_bytes()).await;
        sent.map_err(|error| error.to_string())
    }

    fn take(&mut self, line: &Value) {
        if line.get("event").is_some() {
            let mut announced = self
                .announcement
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // A panic stays the reason, whatever way of ending follows it.
            if *announced != Some(Announced::Panic) {
                *announced = announcement(line).or(*announced);
            }
            return;
        }
        let id = line.get("id").and_then(Value::as_u64);
        let Some((_, reply)) = self.pending.take_if(|(pending, _)| Some(*pending) == id) else {
            return;
        };
        let result = match (line.get("return"), line.get("error")) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(error)) => Err(error
                .get("desc")
                .and_then(Value::as_str)
                .unwrap_or("it refuses")
                .chars()
                .take(200)
                .collect()),
            (None, None) => Err("it answers neither return nor error".into()),
        };
        // The asker may have given up; then the answer is nobody's.
        drop(reply.send(result));
    }

    fn end(self, reason: String) {
        if let Some((_, reply)) = self.pending {
            drop(reply.send(Err(reason)));
        }
    }
}

/// What an event says of the machine's end.
fn announcement(event: &Value) -> Option<Announced> {
    match event.get("event")?.as_str()? {
        "GUEST_PANICKED" => Some(Announced::Panic),
        "SHUTDOWN" => Some(match event.pointer("/data/reason")?.as_str()? {
            "guest-shutdown" => Announced::PowerOff,
            "guest-reset" => Announced::Reset,
            "guest-panic" => Announced::Panic,
            "host-error" => Announced::Error,
            reason if reason.starts_with("host-") => Announced::Host,
            _ => return None,
        }),
        _ => None,
    }
}

/// JSON values, one a line.
#[derive(Debug)]
struct Lines<T> {
    io: T,
    bytes: Vec<u8>,
}

impl<T: AsyncRead + Unpin> Lines<T> {
    /// The next value. What was read so far survives when this is dropped half-way.
    async fn next(&mut self) -> Result<Value, String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| error.to_string());
            }
            if self.bytes.len() >= MAX_LINE {
                return Err(format!("it says a line over {MAX_LINE} bytes"));
            }
            match self.io.read_buf(&mut self.bytes).await {
                Ok(0) => return Err("its monitor closed".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    #[tokio::test]
    async fn answers_go_to_their_askers_between_events() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let announced = Announcement::default();
        let (qmp, task) = Qmp::spawn(ours, Arc::clone(&announced));
        let server = tokio::spawn(async move {
            theirs.write_all(GREETING.as_bytes()).await.unwrap();
            let mut lines = Lines {
                io: theirs,
                bytes: Vec::new(),
            };
            let answers = [
                "{\"return\": {}, \"id\": 1}\r\n",
                "{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 99}\n{\"return\": 7, \"id\": 2}\n",
                "{\"id\": 3, \"error\": {\"class\": \"X\", \"desc\": \"no such key\"}}\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n",
            ];
            for text in answers {
                lines.next().await.unwrap();
                lines.io.write_all(text.as_bytes()).await.unwrap();
            }
        });
        qmp.ready().await.unwrap();
        assert_eq!(qmp.execute("stop", None).await.unwrap(), json!(7));
        let error = qmp.execute("send-key", None).await.unwrap_err();
        assert!(error.to_string().ends_with("no such key"), "{error}");
        server.await.unwrap();
        task.await.unwrap();
        assert_eq!(*announced.lock().unwrap(), Some(Announced::Reset));
        assert!(qmp.execute("stop", None).await.is_err());
    }

    #[tokio::test]
    async fn refuses_an_endless_line() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (qmp, _task) = Qmp::spawn(ours, Announcement::default());
        let flood =
            tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let error = qmp.ready().await.unwrap_err();
        assert!(error.to_string().contains("over"), "{error}");
        flood.await.unwrap();
    }

    #[test]
    fn a_signal_is_told_from_the_guests_own_end() {
        let end =
            |reason: &str| announcement(&json!({"event": "SHUTDOWN", "data": {"reason": reason}}));
        assert_eq!(end("guest-shutdown"), Some(Announced::PowerOff));
        assert_eq!(end("host-signal"), Some(Announced::Host));
        assert_eq!(end("host-qmp-quit"), Some(Announced::Host));
        assert_eq!(end("host-error"), Some(Announced::Error));
        assert_eq!(announcement(&json!({"event": "RESUME"})), None);
    }
}
