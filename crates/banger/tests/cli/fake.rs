//! A daemon that answers as a test tells it, over the real socket and the real wire.

use banger_api::stream::StreamEvent;
use banger_guest::frame::{Decoder, Frame, Kind};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A home directory of its own, and a daemon in it if it was given one.
pub(crate) struct Home {
    temp: TempDir,
    seen: Arc<Mutex<Vec<String>>>,
}

/// One request, to be answered.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
    io: BufReader<UnixStream>,
}

/// An upgraded connection.
pub(crate) struct Stream {
    io: BufReader<UnixStream>,
    decoder: Decoder,
}

impl Home {
    /// A home without a daemon.
    pub(crate) fn empty() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("run");
        std::fs::create_dir(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self {
            temp,
            seen: Arc::default(),
        }
    }

    /// A home whose daemon answers with `handler`, a thread a connection.
    pub(crate) fn serve(handler: impl Fn(Request) + Send + Sync + 'static) -> Self {
        let home = Self::empty();
        home.listen(&home.socket(), handler);
        home
    }

    /// Listens at `path` for as long as the test process lives.
    pub(crate) fn listen(&self, path: &Path, handler: impl Fn(Request) + Send + Sync + 'static) {
        let listener = UnixListener::bind(path).unwrap();
        let (seen, handler) = (self.seen.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || {
                    if let Some(request) = Request::read(connection) {
                        let line = format!("{} {}", request.method, request.path);
                        seen.lock().unwrap().push(line);
                        handler(request);
                    }
                });
            }
        });
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("run/bangerd.sock")
    }

    /// The requests that came, as `METHOD PATH`.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The program, in this home, with nothing on standard input.
    pub(crate) fn banger<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("BANGER_HOME", self.path())
            .env("BANGER_DAEMON", "/nonexistent/bangerd")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Outcome {
        self.banger(arguments).output().unwrap().into()
    }
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Request {
    fn read(connection: UnixStream) -> Option<Self> {
        let mut io = BufReader::new(connection);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            // A probe connects and sends nothing.
            if io.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let mut words = head.first()?.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let length = head
            .iter()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let mut body = vec![0; length];
        io.read_exact(&mut body).ok()?;
        Some(Self {
            method,
            path,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            io,
        })
    }

    /// Answers with a body.
    pub(crate) fn answer(mut self, status: u16, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let stream = self.io.get_mut();
        // A client that is gone is the test's business, not ours.
        drop(stream.write_all(&[head.as_bytes(), body].concat()));
    }

    pub(crate) fn json(self, body: &Value) {
        self.answer(200, body.to_string().as_bytes());
    }

    pub(crate) fn problem(self, status: u16, error: &Value) {
        self.answer(status, json!({ "error": error }).to_string().as_bytes());
    }

    /// Answers in steps.
    pub(crate) fn steps(self, steps: &[Value]) {
        let lines: String = steps.iter().map(|step| format!("{step}\n")).collect();
        self.answer(200, lines.as_bytes());
    }

    /// Becomes a stream of frames.
    pub(crate) fn upgrade(mut self) -> Stream {
        let head = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: banger-stream/1\r\n\r\n";
        self.io.get_mut().write_all(head.as_bytes()).unwrap();
        Stream {
            io: self.io,
            decoder: Decoder::default(),
        }
    }
}

impl Stream {
    pub(crate) fn send(&mut self, frame: &Frame) {
        drop(self.io.get_mut().write_all(&frame.encode()));
    }

    pub(crate) fn event(&mut self, event: &StreamEvent) {
        self.send(&Frame::json(Kind::Reply, event).unwrap());
    }

    pub(crate) fn exit(&mut self, code: u8) {
        self.send(&Frame::json(Kind::Exit, &json!({ "code": code })).unwrap());
    }

    pub(crate) fn fail(&mut self, code: &str, message: &str) {
        let problem = json!({ "code": code, "message": message });
        self.send(&Frame::json(Kind::Failure, &problem).unwrap());
    }

    /// The next frame; `None` at the end of what the client sends.
    pub(crate) fn recv(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let bytes = self.io.fill_buf().ok()?.to_vec();
            if bytes.is_empty() {
                return None;
            }
            self.io.consume(bytes.len());
            self.decoder.feed(&bytes);
        }
    }

    /// All data up to its end mark.
    pub(crate) fn data(&mut self, kind: Kind) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = self.recv() {
            if frame.payload.is_empty() {
                break;
            }
            assert_eq!(frame.kind, kind);
            all.extend(frame.payload);
        }
        all
    }
}

/// A VM as the daemon shows it.
pub(crate) fn vm(name: &str, state: &str) -> Value {
    json!({
        "id": "vm-0000beef", "name": name, "state": state, "image": "debian",
        "image_digest": format!("sha256:{}", "a".repeat(64)), "kernel": "6.1", "cpus": 1,
        "memory": 1_u64 << 30, "disk": 16_u64 << 30, "disk_used": 1 << 20, "storage": "overlay", "network": "user",
        "init": "agent", "ephemeral": false, "labels": {}, "engine": null, "pid": null,
        "created_unix_ms": 0, "started_unix_ms": null, "boot_ms": 350, "exit": null,
    })
}

/// The event that says that a VM has booted.
pub(crate) fn booted() -> StreamEvent {
    StreamEvent::Booted(serde_json::from_value(vm("dev", "running")).unwrap())
}
