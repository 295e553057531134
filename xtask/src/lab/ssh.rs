//! ssh into a lab: a command's line, its run to an end that is always known, files in and out.

use super::machine::tail;
use super::process::{Process, first_ready};
use anyhow::{Context, Result, bail};
use rustix::fd::AsFd;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a kernel says when it breaks.
const BREAKS: [&str; 6] = [
    "BUG:",
    "Oops:",
    "Kernel panic",
    "general protection fault",
    "stack guard page",
    "detected stalls",
];

/// The emulated host itself broke or went away: this says nothing about what was run in it.
#[derive(Debug)]
pub(crate) struct HostDied(String);

impl HostDied {
    /// That a lab has ended which nobody took down.
    pub(super) fn before(name: &str, dir: &Path) -> Self {
        let said = broken_line(dir).unwrap_or_else(|| "nothing".to_owned());
        Self(format!(
            "lab {name:?} has ended; its kernel said, in {dir:?}: {said}"
        ))
    }
}

impl fmt::Display for HostDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lab itself died: {}", self.0)
    }
}

impl std::error::Error for HostDied {}

/// The command did not end in its time.
#[derive(Debug)]
pub(crate) struct TimedOut(Duration);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it did not end in {:?}", self.0)
    }
}

impl std::error::Error for TimedOut {}

/// The way into a lab.
#[derive(Debug)]
pub(super) struct Door<'a> {
    /// The lab's directory: its keys and the shared connection are there.
    pub(super) dir: &'a Path,
    pub(super) port: u16,
    pub(super) qemu: &'a Process,
}

impl Door<'_> {
    /// An ssh command line up to the remote command.
    fn ssh(&self, user: &str) -> Command {
        let mut ssh = Command::new("ssh");
        // What is typed to us is for a command in the lab, if for any.
        ssh.current_dir(self.dir)
            .stdin(Stdio::null())
            .args(["-F", "none", "-i", "key", "-l", user])
            .args(["-p", &self.port.to_string()]);
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "HostKeyAlias=lab",
            "UserKnownHostsFile=known_hosts",
            "GlobalKnownHostsFile=none",
            "StrictHostKeyChecking=yes",
            "LogLevel=ERROR",
            "ConnectTimeout=60",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=20",
            "KexAlgorithms=curve25519-sha256",
            "Ciphers=aes128-gcm@openssh.com",
            "ControlPath=ssh-%r",
        ] {
            ssh.args(["-o", option]);
        }
        ssh
    }

    /// Opens the connection that later commands of `user` share. It ends with the lab.
    pub(super) fn open(&self, user: &str, limit: Duration) -> Result<()> {
        let log_path = self.dir.join("ssh.log");
        let log = File::create(&log_path).with_context(|| format!("make {log_path:?}"))?;
        let mut ssh = self.ssh(user);
        ssh.args(["-M", "-N", "-f", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(log);
        let code = self.to_end(ssh, limit)?;
        if code != 0 {
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            bail!("ssh into the lab: {}", said.trim());
        }
        Ok(())
    }

    /// ssh with a remote command, as a shell reads it; or, without one, a shell at the terminal.
    pub(super) fn command(&self, user: &str, remote: &str, terminal: bool) -> Command {
        let mut ssh = self.ssh(user);
        if terminal {
            ssh.arg("-t");
        }
        ssh.arg("127.0.0.1");
        if !remote.is_empty() {
            ssh.arg("--").arg(remote);
        }
        ssh
    }

    /// Runs an ssh command to its end and returns its exit code. The error is [`HostDied`] if the
    /// lab ended meanwhile or its kernel broke, [`TimedOut`] if time ran out with neither.
    pub(super) fn to_end(&self, mut ssh: Command, limit: Duration) -> Result<i32> {
        let mut child = Killed(ssh.spawn().context("start ssh (package openssh-client)")?);
        let held = Process::hold(i32::try_from(child.0.id())?)?;
        let deadline = Instant::now() + limit;
        match first_ready(&[held.as_fd(), self.qemu.as_fd()], deadline)? {
            Some(0) => {}
            Some(_) => return Err(self.host_died("its process ended").into()),
            None => {
                return Err(match broken_line(self.dir) {
                    Some(_) => self.host_died("it hangs").into(),
                    None => TimedOut(limit).into(),
                });
            }
        }
        let status = child.0.wait().context("wait for ssh")?;
        // 255 is ssh's own. When the lab dies, ssh may be the first to see it.
        if status.code() == Some(255)
            && (self.qemu.ends_within(Duration::from_secs(2))? || broken_line(self.dir).is_some())
        {
            return Err(self.host_died("the connection was lost").into());
        }
        status
            .code()
            .with_context(|| format!("ssh ended with {status}"))
    }

    fn host_died(&self, how: &str) -> HostDied {
        match broken_line(self.dir) {
            Some(said) => HostDied(format!("{how}; its kernel said:\n{said}")),
            None => HostDied(format!("{how}, and its kernel said nothing")),
        }
    }

    /// Brings files and directories into the lab, below the directory `to`, which is made. They
    /// travel as an archive on the lab's second disk, in a third of ssh's time.
    pub(super) fn push(&self, paths: &[PathBuf], to: &str, limit: Duration) -> Result<()> {
        let mut words: Vec<OsString> = Vec::new();
        for path in paths {
            let path = fs::canonicalize(path).with_context(|| format!("find {path:?}"))?;
            let name = path.file_name().context("push the root directory")?;
            let above = path.parent().context("push the root directory")?;
            // A name may begin with a dash.
            let name = Path::new(".").join(name);
            words.extend(["--directory".into(), above.into(), name.into()]);
        }
        let disk_path = self.dir.join("push.img");
        let disk = File::options()
            .write(true)
            .open(&disk_path)
            .with_context(|| format!("open {disk_path:?}"))?;
        rustix::fs::flock(&disk, rustix::fs::FlockOperation::LockExclusive)?;
        let size = disk.metadata()?.len();
        disk.set_len(0)?;
        let stdout = disk.try_clone()?;
        let packed = crate::must(
            Command::new("tar")
                .args(["--create", "--sparse", "--owner=0", "--group=0", "--file=-"])
                .args(words)
                .stdout(stdout),
        );
        let length = disk.metadata()?.len();
        // The lab's disk has a fixed size; the archive ends before that.
        disk.set_len(size)?;
        packed?;
        if length > size {
            bail!("{length} bytes are more than the {size} that can be pushed at once");
        }
        let to = quote(to);
        let unpack =
            format!("mkdir -p {to} && blockdev --flushbufs /dev/vdb && tar -x -f /dev/vdb -C {to}");
        match self.to_end(self.command("root", &unpack, false), limit)? {
            0 => Ok(()),
            code => bail!("unpack what was pushed: exit code {code}"),
        }
    }

    /// Brings files and directories out of the lab, into the local directory `to`.
    pub(super) fn pull(&self, paths: &[&str], to: &Path, limit: Duration) -> Result<()> {
        let names: Vec<String> = paths
            .iter()
            .map(|path| quote(path.trim_start_matches('/')))
            .collect();
        let archive = tempfile::tempfile()?;
        let mut ssh = self.command(
            "root",
            &format!("tar -c -f - -C / -- {}", names.join(" ")),
            false,
        );
        ssh.stdout(archive.try_clone()?);
        let code = self.to_end(ssh, limit)?;
        if code != 0 {
            bail!("pack what is to be pulled: exit code {code}");
        }
        rustix::fs::seek(&archive, rustix::fs::SeekFrom::Start(0))?;
        fs::create_dir_all(to).with_context(|| format!("make {to:?}"))?;
        crate::must(
            Command::new("tar")
                .args(["--extract", "--no-same-owner", "--file=-", "--directory"])
                .arg(to)
                .stdin(archive),
        )
    }
}

/// A child that is killed when it is let go of before its end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It is a child that has not been waited for: its number is still its own.
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

/// What the lab's kernel said when it broke, if it did.
fn broken_line(dir: &Path) -> Option<String> {
    let said = fs::read(dir.join("serial.log")).unwrap_or_default();
    broken(&String::from_utf8_lossy(&said))
}

/// From the first line in which a kernel says that it breaks.
fn broken(said: &str) -> Option<String> {
    let lines: Vec<&str> = said.lines().collect();
    let at = lines
        .iter()
        .position(|line| BREAKS.iter().any(|word| line.contains(word)))?;
    let end = lines.len().min(at + 20);
    Some(tail(&lines[at..end].join("\n")))
}

/// A word as a POSIX shell reads it back.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in [
            "plain",
            "two words",
            "",
            "it's",
            "$(false) `x` \\ \" *",
            "-n",
            "a\nb",
        ] {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_broken_kernel_is_told_from_a_chatty_one() {
        assert_eq!(broken("lab: ready\nusb: no such BUG\n"), None);
        let said = "lab: ready\n[ 1.0] BUG: stack guard page was hit\r\n[ 1.1] RIP: 0\r\n";
        let found = broken(said).unwrap();
        assert!(
            found.starts_with("[ 1.0] BUG") && found.ends_with("RIP: 0"),
            "{found}"
        );
    }
}
