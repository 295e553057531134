//! The helper's side of the stage: made, held back until it is where it belongs, then let go.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use banger_priv::{FileRole, Refusal, RefusalKind};
use banger_sys::dirs::{self, Dir};
use banger_sys::spawn::{Child, Exact, Program, Session, spawn_exact};
use banger_sys::wait::wait_for;
use rustix::event::PollFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::files::Given;
use super::stage::{NAME, Plan};
use crate::policy::STAGE_LIMIT;
use crate::refusal::{failed, refuse, sanitised};

const WHAT: &str = "start the stage";
/// The most bytes of its last words that are repeated.
const MAX_WORDS: usize = 300;

/// A stage that waits for its plan.
#[derive(Debug)]
pub(super) struct Stage {
    child: Child,
    plan: OwnedFd,
    report: OwnedFd,
}

impl Stage {
    /// Starts it with the programs, the jail's directory and the files; the console is its
    /// standard output.
    pub(super) fn spawn(
        programs: &[OwnedFd; 2],
        jail: &Dir,
        files: &[Given],
    ) -> Result<Self, Refusal> {
        let errno = |error: Errno| failed(WHAT, &error);
        let own = openat(
            CWD,
            "/proc/self/exe",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let own = own.map_err(errno)?;
        let (plan_end, plan) = pipe_with(PipeFlags::CLOEXEC).map_err(errno)?;
        let (report, report_end) = pipe_with(PipeFlags::CLOEXEC).map_err(errno)?;
        let is_console = |file: &&Given| file.role == FileRole::Console;
        let console = files.iter().find(is_console);
        let console = console.ok_or_else(|| refuse(RefusalKind::Invalid, "no console"))?;
        let shown = files.iter().filter(|file| file.place().is_some());
        let fds: Vec<_> = programs
            .iter()
            .map(AsFd::as_fd)
            .chain([jail.as_fd()])
            .chain(shown.map(|file| file.fd.as_fd()))
            .collect();
        let name = CString::new(NAME).map_err(|error| failed(WHAT, &error))?;
        let program = Program {
            path: c"/proc/self/exe",
            argv: &[name],
            env: &[],
            cwd: c"/",
            stdio: [plan_end.as_fd(), console.fd.as_fd(), report_end.as_fd()],
            identity: None,
            session: Session::New,
            resets_oom_score: true,
        };
        let exact = Exact {
            image: Some(own.as_fd()),
            fds: &fds,
        };
        let child = spawn_exact(&program, exact).map_err(|error| failed(WHAT, &error))?;
        Ok(Self {
            child,
            plan,
            report,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Another descriptor of the process.
    pub(super) fn pidfd(&self) -> Result<OwnedFd, Refusal> {
        let copy = self.child.pidfd.try_clone();
        copy.map_err(|error| failed(WHAT, &error))
    }

    /// Lets it go, and returns when it is the jailer: the process stays the same.
    pub(super) fn go(self, plan: &Plan) -> Result<(Pid, OwnedFd), Refusal> {
        let what = "show the VM's files in its jail";
        let text = serde_json::to_vec(plan).map_err(|error| failed(what, &error))?;
        // It fits into the pipe.
        let written = rustix::io::write(&self.plan, &text);
        if written.map_err(|error| failed(what, &error))? != text.len() {
            return Err(refuse(
                RefusalKind::Limit,
                format!("{what}: the plan is too long"),
            ));
        }
        drop(self.plan);
        // Until it has said something or has become the jailer.
        let deadline = Instant::now().checked_add(STAGE_LIMIT);
        match wait_for(&self.report, PollFlags::IN, deadline) {
            Ok(true) => {}
            Ok(false) => return Err(refuse(RefusalKind::TimedOut, what)),
            Err(error) => return Err(failed(what, &error)),
        }
        let words = dirs::read_capped(&self.report, MAX_WORDS);
        let words = words.map_err(|error| failed(what, &error))?;
        if !words.is_empty() {
            let words = sanitised(&String::from_utf8_lossy(&words), MAX_WORDS);
            return Err(refuse(RefusalKind::Failed, format!("{what}: {words}")));
        }
        Ok((self.child.pid, self.child.pidfd))
    }
}
