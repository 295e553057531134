//! A pseudo-terminal to run the command line on, as a person's terminal would.

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Starts `command` on a new terminal of this size. The terminal is its standard input,
    /// output and error; it becomes its controlling terminal through `setsid --ctty`.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, cols, rows);
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap())
        };
        let mut wrapped = Command::new("setsid");
        wrapped
            .arg("--ctty")
            .arg("--wait")
            .arg(command.get_program())
            .args(command.get_args());
        wrapped.env_clear().env("TERM", "xterm-256color");
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let child = wrapped
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        Self {
            master: File::from(master),
            child,
            seen: String::new(),
        }
    }

    /// Types text.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Changes the terminal's size.
    pub fn resize(&self, cols: u16, rows: u16) {
        resize(&self.master, cols, rows);
    }

    /// Sends the program a signal. It is the terminal's first process: `setsid` makes way for it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        crate::send(self.child.id(), signal);
    }

    /// Whether keys are echoed and lines edited, as on every terminal that nobody made raw.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.master).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Takes the terminal away, as a closed window does; the program must end [`crate::SOON`].
    #[track_caller]
    pub fn close(self) {
        let Self {
            master, mut child, ..
        } = self;
        drop(master);
        let deadline = Instant::now() + crate::SOON;
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no end without a terminal");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads until `text` has been shown; fails after [`crate::SOON`]. What was shown up to and
    /// including it is returned and forgotten.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + crate::SOON;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(
                Instant::now() < deadline,
                "no {text:?} in {:?}",
                self.end_seen()
            );
            assert!(self.read(), "ended without {text:?}: {:?}", self.end_seen());
        }
    }

    /// The end of what was shown: progress alone may fill pages.
    fn end_seen(&self) -> &str {
        let start = self.seen.len().saturating_sub(2000);
        let start = (start..).find(|at| self.seen.is_char_boundary(*at));
        &self.seen[start.unwrap()..]
    }

    /// Reads what is still shown and returns the exit code; the end must come [`crate::SOON`].
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let (code, seen, _) = self.end_with_modes();
        (code, seen)
    }

    /// As [`Terminal::end`]; tells as well whether the terminal is as it was ([`Terminal::is_cooked`]).
    #[track_caller]
    pub fn end_with_modes(&mut self) -> (i32, String, bool) {
        let deadline = Instant::now() + crate::SOON;
        while self.read() {
            assert!(
                Instant::now() < deadline,
                "no end after {:?}",
                self.end_seen()
            );
        }
        let status = self.child.wait().unwrap();
        let seen = std::mem::take(&mut self.seen);
        (status.code().unwrap_or(-1), seen, self.is_cooked())
    }

    /// Reads some bytes, waiting at most a second; false at the end.
    fn read(&mut self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let second = Timespec::try_from(Duration::from_secs(1)).unwrap();
        if poll(&mut fds, Some(&second)).unwrap() == 0 {
            return true;
        }
        let mut buffer = [0; 4096];
        // The last process on a terminal going away reads as an error (EIO).
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.seen
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
                true
            }
        }
    }
}

fn resize(master: impl std::os::fd::AsFd, cols: u16, rows: u16) {
    tcsetwinsize(
        master,
        Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
}
