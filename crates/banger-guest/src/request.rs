//! What a host asks of the agent, and what the agent answers.

use serde::{Deserialize, Serialize};

/// The first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answers [`Reply`] with [`Health`]; ends the stream.
    Health,
    /// Runs a command. Answers [`Reply`] once it runs, then `Stdout`, `Stderr`, `Taken`, `Exit`;
    /// takes `Stdin`, `Resize`, `Signal`. At most [`STDIN_WINDOW`] bytes of input may be ahead
    /// of what the command took: a signal behind more might never be read. When the host ends the stream, the command's
    /// process group gets HUP, then KILL.
    Exec(Exec),
    /// Unpacks a tar stream (`Data` frames, an empty one at the end) below a directory.
    /// Answers [`Reply`] when it is ready for data and an `Exit` of code 0 when all is written.
    CopyIn(CopyIn),
    /// Packs a file or directory as a tar stream: [`Reply`], `Data` frames, an empty one, `Exit`.
    CopyOut(CopyOut),
    /// Joins the stream to a TCP port on the guest's loopback: [`Reply`], then `Data` both ways.
    Dial(Dial),
    /// Runs the image's sshd for this one connection (`sshd -i`): [`Reply`], then `Data` both ways.
    Ssh(Ssh),
    /// Waits until something in the guest listens on a TCP port, on whatever address. Answers
    /// [`Reply`] at once and an `Exit` of code 0 when it does; ends when the host leaves.
    AwaitPort(AwaitPort),
    /// Ends the guest in order: processes get TERM, then KILL, file systems are synced.
    /// Answers [`Reply`] first; under the image's own init it asks that init to power off.
    PowerOff,
}

/// A command to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments; a program without `/` is looked up in the
    /// environment's PATH. Empty: the user's login shell.
    pub argv: Vec<String>,
    /// Environment variables over the agent's defaults (PATH, HOME, USER, SHELL, TERM).
    pub env: Vec<(String, String)>,
    /// The user, by name or number, as `user` or `user:group`. Empty: root.
    pub user: String,
    /// The working directory. Empty: the user's home (`/` if that does not exist).
    pub workdir: String,
    /// A terminal of this size; `None` gives three pipes.
    pub terminal: Option<Terminal>,
    /// After so many milliseconds the process group gets TERM, 2 s later KILL, and
    /// [`Exit::timed_out`] is set. 0: never.
    pub timeout_ms: u64,
}

/// A terminal for a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Its first size.
    pub size: Resize,
    /// The value of TERM.
    pub term: String,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// How many bytes of `Stdin` a host sends before it has heard, by `Taken`, that some were taken.
pub const STDIN_WINDOW: usize = 512 * 1024;

/// The command took bytes of its input, or will never take them. Said now and then, not for each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// How many, since the last frame of this kind.
    pub bytes: usize,
}

/// Unpack a tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyIn {
    /// The absolute directory to unpack below.
    pub dir: String,
    /// Whether to make `dir` (and its parents) if it does not exist.
    pub create: bool,
    /// The owner of what is written, by name or number as in [`Exec::user`]; empty keeps the tar's.
    pub owner: String,
}

/// Pack a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyOut {
    /// The absolute path of a file or directory. Its last component is the tar's top name.
    pub path: String,
}

/// Join a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dial {
    /// The port on the guest's 127.0.0.1.
    pub port: u16,
}

/// Wait for a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwaitPort {
    /// The port.
    pub port: u16,
}

/// One ssh connection. Keys live in the guest's memory only (`/run/banger/ssh`, 0600).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// The VM's private host key, in OpenSSH's format.
    pub host_key: String,
    /// Lines of `authorized_keys`, accepted for every user of the guest.
    pub authorized_keys: Vec<String>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("authorized_keys", &self.authorized_keys)
            .finish_non_exhaustive()
    }
}

/// Says that the request was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The process id in the guest, for `Exec`.
    pub pid: Option<u32>,
    /// For `Health`.
    pub health: Option<Health>,
}

/// How the agent and its guest are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The agent's version.
    pub version: String,
    /// Whether the agent is PID 1.
    pub is_init: bool,
    /// The guest's uptime in milliseconds.
    pub uptime_ms: u64,
    /// `uname -r` of the guest.
    pub kernel: String,
    /// Commands that run now.
    pub execs: u32,
    /// What could not be set up at boot, a line each; empty when all is well.
    pub problems: Vec<String>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// One line for people; hostile until sanitised.
    pub message: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The request itself is wrong.
    Invalid,
    /// The program, file or directory does not exist (exit code 127 for a command).
    NotFound,
    /// The program cannot be executed (exit code 126 for a command).
    NotExecutable,
    /// The user or group does not exist in the image.
    NoSuchUser,
    /// The image lacks what the request needs (no sshd).
    Unsupported,
    /// A limit of the agent is reached.
    Limit,
    /// Anything else.
    Io,
}

/// How a command ended. Exactly one of `code` and `signal` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// The exit code, 0 to 255.
    pub code: Option<u8>,
    /// The signal that killed it, by name without `SIG` (or by number where it has none).
    pub signal: Option<String>,
    /// Whether it ended because of [`Exec::timeout_ms`].
    pub timed_out: bool,
}

/// Signals that may be sent to a command, by name without `SIG`, with their Linux numbers.
pub const SIGNALS: [(&str, i32); 12] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("WINCH", 28),
];

impl Exit {
    /// The exit code a shell would show: the code itself, 128 + the signal's number, 124 after a time-out.
    pub fn shell_code(&self) -> u8 {
        if self.timed_out {
            return 124;
        }
        let Some(name) = &self.signal else {
            return self.code.unwrap_or(255);
        };
        let number = SIGNALS
            .iter()
            .find(|(known, _)| known == name)
            .map(|&(_, number)| number)
            .or_else(|| name.parse().ok())
            .or(match name.as_str() {
                "ILL" => Some(4),
                "TRAP" => Some(5),
                "BUS" => Some(7),
                "FPE" => Some(8),
                "SEGV" => Some(11),
                _ => None,
            });
        number
            .and_then(|number| u8::try_from(number).ok())
            .filter(|number| (1..=64).contains(number))
            .map_or(255, |number| 128 + number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let exit = |code, signal: Option<&str>, timed_out| {
            Exit {
                code,
                signal: signal.map(str::to_owned),
                timed_out,
            }
            .shell_code()
        };
        assert_eq!(exit(Some(7), None, false), 7);
        assert_eq!(exit(None, Some("KILL"), false), 137);
        assert_eq!(exit(None, Some("SEGV"), false), 139);
        assert_eq!(exit(None, Some("34"), false), 162);
        assert_eq!(exit(None, Some("TERM"), true), 124);
        assert_eq!(exit(None, Some("900"), false), 255);
        assert_eq!(exit(None, None, false), 255);
    }

    #[test]
    fn requests_refuse_unknown_fields() {
        assert!(serde_json::from_str::<Request>(r#"{"op":"dial","port":22}"#).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"op":"dial","port":22,"x":1}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"op":"format_disk"}"#).is_err());
    }
}
