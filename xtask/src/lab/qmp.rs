//! The little of QEMU's monitor protocol that the lab needs: save and load a machine, and learn
//! which port the host forwards to it.
//!
//! QEMU connects to us, not we to it: so there is no moment at which its socket is not yet there.

use super::process::{Process, first_ready};
use anyhow::{Context, Result, bail};
use rustix::fd::AsFd;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// How long QEMU may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a running QEMU's monitor.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Waits for QEMU, started as `starter` or below it, to connect; also returns its process.
    pub(super) fn accept(listener: &UnixListener, starter: &Process) -> Result<(Self, Process)> {
        let deadline = Instant::now() + PATIENCE;
        match first_ready(&[listener.as_fd(), starter.as_fd()], deadline)? {
            Some(0) => {}
            Some(_) => bail!("QEMU ended at once"),
            None => bail!("QEMU did not connect to its monitor in {PATIENCE:?}"),
        }
        let (stream, _) = listener.accept().context("accept QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).context("ask who connected")?;
        let qemu = Process::hold(peer.pid.as_raw_pid())?;
        let mut qmp = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            events: VecDeque::new(),
        };
        qmp.read()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok((qmp, qemu))
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self
            .reader
            .read_line(&mut line)
            .context("read QEMU's monitor")?;
        if count == 0 {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("read QEMU's monitor: {line:?}"))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{line}").with_context(|| format!("ask QEMU to {command}"))?;
        loop {
            let mut answer = self
                .read()
                .with_context(|| format!("ask QEMU to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused to {command}: {}", error["desc"]);
            }
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Stops the machine and writes its devices' state to `state` in QEMU's directory; memory that
    /// is a shared file stays in that file.
    pub(super) fn save(&mut self) -> Result<()> {
        self.execute("stop", &json!({}))?;
        self.migration_capabilities()?;
        self.execute(
            "migrate-set-parameters",
            &json!({"max-bandwidth": 1_u64 << 40}),
        )?;
        self.execute("migrate", &json!({"uri": "exec:cat > state"}))?;
        self.migrated()?;
        // The answer is lost when QEMU is quicker than we are.
        self.execute("quit", &json!({})).ok();
        Ok(())
    }

    /// Loads `state` from QEMU's directory into a machine started for it, and lets it go on.
    pub(super) fn load(&mut self) -> Result<()> {
        self.migration_capabilities()?;
        self.execute("migrate-incoming", &json!({"uri": "exec:cat state"}))?;
        self.migrated()?;
        self.execute("cont", &json!({})).map(drop)
    }

    fn migration_capabilities(&mut self) -> Result<()> {
        let wanted = json!({"capabilities": [
            {"capability": "x-ignore-shared", "state": true},
            {"capability": "events", "state": true},
        ]});
        self.execute("migrate-set-capabilities", &wanted).map(drop)
    }

    /// Waits for the event that tells how a migration ended.
    fn migrated(&mut self) -> Result<()> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.read().context("wait for the state")?,
            };
            if event["event"] == "MIGRATION" {
                match event["data"]["status"].as_str().unwrap_or_default() {
                    "completed" => return Ok(()),
                    bad @ ("failed" | "cancelled") => bail!("QEMU: migration {bad}"),
                    _ => {}
                }
            }
        }
    }

    /// The local TCP port that is forwarded to the machine's sshd.
    pub(super) fn forwarded_port(&mut self) -> Result<u16> {
        let text = self.execute(
            "human-monitor-command",
            &json!({"command-line": "info usernet"}),
        )?;
        let text = text.as_str().unwrap_or_default();
        port_in(text).with_context(|| format!("no forwarded port in {text:?}"))
    }
}

/// The source port in the line of the forwarding, `TCP[HOST_FORWARD] FD ADDRESS PORT ...`.
fn port_in(text: &str) -> Option<u16> {
    let line = text.lines().find(|line| line.contains("HOST_FORWARD"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_the_table() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]  14       127.0.0.1 41573       10.0.2.15    22     0     0\r\n";
        assert_eq!(port_in(table), Some(41573));
        assert_eq!(port_in("Hub -1 (net):\r\n"), None);
    }
}
