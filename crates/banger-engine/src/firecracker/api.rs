//! A small client of Firecracker's API: one connection a request, capped and with a deadline.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::EngineError;
use crate::program::Version;
use crate::socket::SocketFile;

/// How long Firecracker may take to answer. Generous: an emulated host is slow.
const LIMIT: Duration = Duration::from_secs(20);

/// The largest answer, and the largest head of one, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The API of one Firecracker.
#[derive(Debug)]
pub(super) struct Api {
    socket: SocketFile,
}

impl Api {
    pub(super) fn new(socket: SocketFile) -> Self {
        Self { socket }
    }

    /// Asks which version answers; the answer comes when the machine is built.
    pub(super) async fn version(&self) -> Result<Version, EngineError> {
        let command = "say its version";
        let answer = self.ask(command, Method::GET, "/", None).await?;
        answer
            .get("vmm_version")
            .and_then(Value::as_str)
            .and_then(Version::parse)
            .ok_or_else(|| EngineError::Control {
                command,
                reason: "it answers without one".into(),
            })
    }

    /// Presses Ctrl-Alt-Del.
    pub(super) async fn ctrl_alt_del(&self) -> Result<(), EngineError> {
        let body = json!({ "action_type": "SendCtrlAltDel" });
        self.ask("press Ctrl-Alt-Del", Method::PUT, "/actions", Some(body))
            .await
            .map(drop)
    }

    /// Stops the virtual CPUs.
    pub(super) async fn pause(&self) -> Result<(), EngineError> {
        let body = json!({ "state": "Paused" });
        self.ask("pause", Method::PATCH, "/vm", Some(body))
            .await
            .map(drop)
    }

    /// Lets them run again.
    pub(super) async fn resume(&self) -> Result<(), EngineError> {
        let body = json!({ "state": "Resumed" });
        self.ask("resume", Method::PATCH, "/vm", Some(body))
            .await
            .map(drop)
    }

    async fn ask(
        &self,
        command: &'static str,
        method: Method,
        path: &'static str,
        body: Option<Value>,
    ) -> Result<Value, EngineError> {
        let asking = async {
            let io = self.socket.connect().await?;
            exchange(io, method, path, body)
                .await
                .map_err(|reason| EngineError::Control { command, reason })
        };
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(EngineError::Silent {
                command,
                limit: LIMIT,
            }),
        }
    }
}

/// Sends one request and reads its answer, `Null` if that has no body.
async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, String> {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_ANSWER)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| error.to_string())?;
    let answer = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        understand(status, &body.to_bytes())
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What came before the end of the connection is still to be had.
        _ended = connection => answer.await,
    }
}

fn understand(status: StatusCode, body: &[u8]) -> Result<Value, String> {
    if status.is_success() {
        return match body {
            [] => Ok(Value::Null),
            body => serde_json::from_slice(body).map_err(|error| error.to_string()),
        };
    }
    let fault = serde_json::from_slice::<Value>(body).ok();
    let fault = fault
        .as_ref()
        .and_then(|fault| fault.get("fault_message"))
        .and_then(Value::as_str)
        .unwrap_or("it does not say why");
    let fault: String = fault
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    Err(format!("{fault} (status {})", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Gets `says` for an answer; gives what was asked and how it was understood.
    async fn answered(says: Vec<u8>, then_closes: bool) -> (String, Result<Value, String>) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut asked = vec![0; 4096];
            let count = theirs.read(&mut asked).await.unwrap();
            asked.truncate(count);
            // The client may refuse and leave before all is said.
            let _told = theirs.write_all(&says).await;
            if !then_closes {
                let _left = theirs.read(&mut [0]).await;
            }
            String::from_utf8(asked).unwrap()
        });
        let body = json!({ "state": "Paused" });
        let limit = Duration::from_secs(10);
        let asking = exchange(ours, Method::PATCH, "/vm", Some(body));
        let result = tokio::time::timeout(limit, asking).await.unwrap();
        (server.await.unwrap(), result)
    }

    #[tokio::test]
    async fn a_request_is_well_formed_and_an_empty_answer_is_enough() {
        for closes in [false, true] {
            let says =
                b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
            let (asked, result) = answered(says.to_vec(), closes).await;
            assert!(asked.starts_with("PATCH /vm HTTP/1.1\r\n"), "{asked}");
            assert!(asked.to_lowercase().contains("content-length: 18\r\n"));
            assert!(asked.ends_with("\r\n\r\n{\"state\":\"Paused\"}"), "{asked}");
            assert_eq!(result, Ok(Value::Null));
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_its_control_characters() {
        let body = "{\"fault_message\":\"no\\u001b[31m such state\"}";
        let says = format!(
            "HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (_, result) = answered(says.into_bytes(), false).await;
        assert_eq!(result, Err("no[31m such state (status 400)".into()));
    }

    #[tokio::test]
    async fn answers_that_lie_are_refused() {
        let head = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
        let mut endless = head("Content-Length: 70000");
        endless.extend(vec![b'1'; 70_000]);
        let mut long_head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        long_head.extend(vec![b'x'; 100_000]);
        for says in [
            endless,
            long_head,
            head("Content-Length: 4\r\n\r\n{\"a\""),
            b"nonsense\r\n\r\n".to_vec(),
            Vec::new(),
        ] {
            let (_, result) = answered(says, true).await;
            assert!(result.is_err(), "{result:?}");
        }
    }
}
