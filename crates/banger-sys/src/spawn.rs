//! Starting a program: all decided before the fork, async-signal-safe calls only after it.
//!
//! `std::process::Command` can neither say which step failed nor hand out a pidfd together
//! with supplementary groups and a controlling terminal; hence this. The child reports a failed step
//! and its errno through a pipe that a successful exec closes.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::signals::last_errno;

/// What to start and as whom.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file to execute; not looked up anywhere.
    pub path: &'a CStr,
    /// Its arguments, the zeroth included.
    pub argv: &'a [CString],
    /// Its whole environment, as `NAME=value`.
    pub env: &'a [CString],
    /// Its working directory, entered after the identity is taken.
    pub cwd: &'a CStr,
    /// Standard input, output and error. Every other descriptor is closed, but those of [`Exact`].
    pub stdio: [BorrowedFd<'a>; 3],
    /// The identity to take; `None` keeps the caller's.
    pub identity: Option<Identity>,
    /// The session to run in.
    pub session: Session,
    /// Puts the OOM score back to 0, for callers that protect themselves.
    pub resets_oom_score: bool,
}

/// User, group and supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, all of them.
    pub groups: Vec<u32>,
}

/// The session of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// A new session and process group, without a terminal.
    New,
    /// A new session whose controlling terminal is the standard input.
    Terminal,
}

/// A started program. Whoever has it must wait for the process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, and that of its process group and session.
    pub pid: Pid,
    /// A descriptor that becomes readable when the process ends.
    pub pidfd: OwnedFd,
}

/// The steps of the child, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Signal mask and dispositions.
    Signals,
    /// The new session.
    Session,
    /// The standard descriptors.
    Stdio,
    /// The controlling terminal.
    Terminal,
    /// User and groups.
    Identity,
    /// The working directory.
    Cwd,
    /// The execution itself.
    Exec,
}

/// Why a program did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// The kernel refused the process or what it needs; nothing was started.
    #[error("make a process")]
    Process(#[source] Errno),
    /// The child failed before or at exec; it is gone and waited for.
    #[error("start a program: {step:?}")]
    Child {
        /// Where.
        step: Step,
        /// Why. At [`Step::Exec`]: `NOENT` (the file or its interpreter is missing), `ACCESS`, `NOEXEC`.
        #[source]
        errno: Errno,
    },
}

impl From<Errno> for SpawnError {
    fn from(errno: Errno) -> Self {
        Self::Process(errno)
    }
}

/// What only some children need, beside their [`Program`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Exact<'a> {
    /// Executed in the place of [`Program::path`]: the very file that was checked. A script
    /// cannot be: its interpreter would have to open it by name.
    pub image: Option<BorrowedFd<'a>>,
    /// Given to the child as descriptors 3, 4 and on.
    pub fds: &'a [BorrowedFd<'a>],
}

/// All that the child touches, allocated before the fork.
struct Prepared<'a> {
    path: *const c_char,
    image: Option<OwnedFd>,
    fds: Vec<OwnedFd>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: *const c_char,
    stdio: [OwnedFd; 3],
    identity: Option<&'a Identity>,
    session: Session,
    resets_oom_score: bool,
    report: RawFd,
}

/// Starts `program`. Returns when it has been executed, or with what kept it from that.
///
/// If another thread waits for children of any id, hold it off until the returned child is known
/// to it (its exit status would be lost).
pub fn spawn(program: &Program<'_>) -> Result<Child, SpawnError> {
    spawn_exact(program, Exact::default())
}

/// As [`spawn`], with descriptors beyond the standard ones, or a program that is held open.
pub fn spawn_exact(program: &Program<'_>, exact: Exact<'_>) -> Result<Child, SpawnError> {
    let (outcome, low_report) = pipe_with(PipeFlags::CLOEXEC)?;
    let [stdin, stdout, stderr] = program.stdio;
    // Above all that are given to the child, so that none is overwritten while they are put in place.
    let free = RawFd::try_from(exact.fds.len())
        .ok()
        .and_then(|count| count.checked_add(3))
        .ok_or(Errno::MFILE)?;
    let above = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, free);
    let report = above(low_report.as_fd())?;
    drop(low_report);
    let prepared = Prepared {
        path: program.path.as_ptr(),
        image: exact.image.map(above).transpose()?,
        fds: exact
            .fds
            .iter()
            .copied()
            .map(above)
            .collect::<Result<_, _>>()?,
        argv: pointers(program.argv),
        env: pointers(program.env),
        cwd: program.cwd.as_ptr(),
        stdio: [above(stdin)?, above(stdout)?, above(stderr)?],
        identity: program.identity.as_ref(),
        session: program.session,
        resets_oom_score: program.resets_oom_score,
        report: report.as_raw_fd(),
    };
    // SAFETY: the child calls only `run_child`, which makes raw system calls on memory that
    // was allocated before the fork, and never returns.
    let pid = match unsafe { libc::fork() } {
        0 => run_child(&prepared),
        pid => pid,
    };
    if pid < 0 {
        return Err(SpawnError::Process(last_errno()));
    }
    let pid = Pid::from_raw(pid).ok_or(Errno::CHILD)?;
    drop(prepared);
    drop(report);
    match read_report(&outcome) {
        Ok(None) => {}
        Ok(Some((step, errno))) => {
            reap(pid)?;
            return Err(SpawnError::Child { step, errno });
        }
        Err(errno) => {
            abandon(pid)?;
            return Err(SpawnError::Process(errno));
        }
    }
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Child { pid, pidfd }),
        Err(errno) => {
            abandon(pid)?;
            Err(SpawnError::Process(errno))
        }
    }
}

/// Becomes the program that `image` is of, which keeps what descriptors are not close-on-exec.
/// Returns only when it cannot. For scripts see [`Exact::image`].
pub fn exec(image: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> Errno {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that live here.
    unsafe { execute(image.as_raw_fd(), &argv, &env) };
    last_errno()
}

/// # Safety
/// `argv` and `env` must be pointers to live NUL-terminated strings, null after the last.
unsafe fn execute(image: RawFd, argv: &[*const c_char], env: &[*const c_char]) {
    // SAFETY: the path is an empty string; the arrays are the caller's promise.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts
        .iter()
        .map(|text| text.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

fn abandon(pid: Pid) -> Result<(), Errno> {
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    reap(pid)
}

fn reap(pid: Pid) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED))?;
    Ok(())
}

/// Reads the child's report: nothing when the exec closed the pipe.
fn read_report(outcome: &OwnedFd) -> Result<Option<(Step, Errno)>, Errno> {
    let mut report = [0_u8; 5];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(outcome, &mut report))?;
    if length == 0 {
        return Ok(None);
    }
    let [step, errno @ ..] = report;
    let step = [
        Step::Signals,
        Step::Session,
        Step::Stdio,
        Step::Terminal,
        Step::Identity,
        Step::Cwd,
        Step::Exec,
    ]
    .into_iter()
    .find(|known| *known as u8 == step)
    .ok_or(Errno::IO)?;
    Ok(Some((
        step,
        Errno::from_raw_os_error(i32::from_ne_bytes(errno)),
    )))
}

/// The child's whole life. Raw calls only: no allocation, no lock, no panic.
fn run_child(prepared: &Prepared<'_>) -> ! {
    let Err((step, errno)) = prepare_and_exec(prepared);
    let mut report = [0_u8; 5];
    report[0] = step as u8;
    report[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: the report is 5 bytes; _exit ends the child without running the parent's destructors.
    unsafe {
        libc::write(prepared.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn prepare_and_exec(prepared: &Prepared<'_>) -> Result<std::convert::Infallible, (Step, i32)> {
    if prepared.resets_oom_score {
        reset_oom_score();
    }
    // SAFETY: system calls that take numbers, or pointers into `prepared`, which the fork
    // copied whole: NUL-terminated strings and null-terminated arrays of them.
    unsafe {
        reset_signals();
        check(Step::Session, libc::setsid())?;
        let sources = prepared.stdio.iter().chain(&prepared.fds);
        let mut free = 0;
        for source in sources {
            check(Step::Stdio, libc::dup2(source.as_raw_fd(), free))?;
            free += 1;
        }
        if prepared.session == Session::Terminal {
            check(Step::Terminal, libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        // Old kernels lack the flag; every descriptor of a Rust program is close-on-exec anyway.
        libc::syscall(
            libc::SYS_close_range,
            free,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        if let Some(identity) = prepared.identity {
            take_identity(identity)?;
        }
        check(Step::Cwd, libc::chdir(prepared.cwd))?;
        if let Some(image) = &prepared.image {
            execute(image.as_raw_fd(), &prepared.argv, &prepared.env);
        } else {
            libc::execve(prepared.path, prepared.argv.as_ptr(), prepared.env.as_ptr());
        }
    }
    Err((Step::Exec, errno()))
}

/// The raw calls: the C library's would try to change the threads that the fork left behind.
///
/// # Safety
/// To be called only in a forked child, before exec.
unsafe fn take_identity(identity: &Identity) -> Result<(), (Step, i32)> {
    let (uid, gid) = (identity.uid, identity.gid);
    // SAFETY: setgroups reads `len` ids from a live slice; the others take numbers.
    let results = unsafe {
        [
            libc::syscall(
                libc::SYS_setgroups,
                identity.groups.len(),
                identity.groups.as_ptr(),
            ),
            libc::syscall(libc::SYS_setresgid, gid, gid, gid),
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        ]
    };
    if results.contains(&-1) {
        return Err((Step::Identity, errno()));
    }
    Ok(())
}

/// # Safety
/// To be called only in a forked child: it changes the dispositions of the whole process.
unsafe fn reset_signals() {
    // The kernel's struct sigaction, all zeros: SIG_DFL, no flags, empty mask. Not the C library's
    // call, which refuses the two numbers it keeps for itself; a parent may have ignored these.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` is at least as large as the kernel's struct; KILL and STOP are
        // refused, which is as good.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
    }
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Best effort: without /proc the child keeps its parent's score, which only makes it live longer.
fn reset_oom_score() {
    if let Ok(file) = rustix::fs::open(
        c"/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let _ = rustix::io::write(&file, b"0");
    }
}

fn check(step: Step, result: libc::c_int) -> Result<(), (Step, i32)> {
    if result < 0 {
        return Err((step, errno()));
    }
    Ok(())
}

fn errno() -> i32 {
    // SAFETY: the location is the calling thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests;
