//! The stage: this very program again, as a process of one thread, that shows a VM's files in its
//! jail, gives up what the jailer does not need, and becomes the jailer.
//!
//! It waits for its [`Plan`] on standard input, so that the helper can put it into its control
//! group first; a helper that dies before leaves an end of file, and the stage ends. Mounts are made
//! in a namespace of its own: none ever exists in the helper's, so none can leak. What goes wrong
//! it says on standard error, a pipe that a successful exec closes. It opens no file by a name
//! that anybody told it: each is found again from its descriptor and proved to be the same.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use banger_priv::jail::{API_SOCKET, LOG, MACHINE};
use banger_sys::caps::{self, CapabilitySet};
use banger_sys::dirs::{self, Dir, PathError};
use banger_sys::mounts::{MountClone, MountError, Restrictions, enter_private};
use banger_sys::spawn;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use crate::refusal::chain;

/// The zeroth argument by which the helper starts itself as the stage.
pub(crate) const NAME: &str = "bangerd-root-stage";
/// Where Firecracker's program is shown beneath the jail's directory. The jailer copies it from
/// there, so what runs is the very file that was verified.
pub(crate) const PROGRAM: &str = "exec/firecracker";

/// The stage's descriptors: the jailer's program,
const JAILER: usize = 3;
/// Firecracker's,
const FIRECRACKER: usize = 4;
/// the jail's directory,
const JAIL: usize = 5;
/// and the files of the plan.
const FILES: usize = 6;
const MAX_PLAN: usize = 64 * 1024;
/// All that the jailer needs.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_ADMIN);

/// What the stage is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The jailer's `--id`.
    pub(crate) id: String,
    /// The VM's uid and gid.
    pub(crate) uid: u32,
    /// The most bytes that the VM can make a file grow to.
    pub(crate) file_limit: u64,
    /// Directories beneath one of which each file lies.
    pub(crate) roots: Vec<String>,
    /// Where the file of each descriptor from [`FILES`] on is shown.
    pub(crate) files: Vec<Shown>,
}

/// A file in the jail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// An empty file beneath the jail's directory, onto which it is mounted.
    pub(crate) target: String,
    /// Whether the VM cannot write it.
    pub(crate) read_only: bool,
}

#[derive(Debug, thiserror::Error)]
enum StageError {
    #[error("read the plan: it is none")]
    Plan,
    #[error("show {0:?}: it is beneath none of the directories for files")]
    Elsewhere(String),
    #[error("{0}")]
    Step(&'static str, #[source] Errno),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Path(#[from] PathError),
}

fn step(operation: &'static str) -> impl FnOnce(Errno) -> StageError {
    move |errno| StageError::Step(operation, errno)
}

/// Is the stage; returns only when it failed, which it has said.
pub(crate) fn run() -> ExitCode {
    let Err(error) = become_jailer();
    // Without a reader there is nobody to tell.
    rustix::io::write(rustix::stdio::stderr(), chain(&error).as_bytes()).unwrap_or(0);
    ExitCode::FAILURE
}

fn become_jailer() -> Result<Infallible, StageError> {
    caps::harden_process().map_err(step("harden the process"))?;
    let text =
        dirs::read_capped(rustix::stdio::stdin(), MAX_PLAN).map_err(step("read the plan"))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|_| StageError::Plan)?;
    caps::keep_across_exec(&[]).map_err(step("mark descriptors"))?;
    let jailer = held(JAILER)?;
    let arguments = arguments(&plan)?;
    show(&plan)?;
    let report =
        fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(step("keep the report"))?;
    let Err(error) = take_console()
        .and_then(|()| give_up(&plan))
        .and_then(|()| Err::<Infallible, _>(execute(&jailer, &arguments)));
    rustix::stdio::dup2_stderr(&report).map_err(step("report"))?;
    Err(error)
}

fn execute(jailer: &OwnedFd, arguments: &[CString]) -> StageError {
    StageError::Step(
        "execute the jailer",
        spawn::exec(jailer.as_fd(), arguments, &[]),
    )
}

/// A descriptor that the helper gave, as an `O_PATH` one.
fn held(number: usize) -> Result<OwnedFd, StageError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat(CWD, format!("/proc/self/fd/{number}"), flags, Mode::empty())
        .map_err(step("hold a descriptor"))
}

/// Mounts the files in the jail, in a namespace of this process's own.
fn show(plan: &Plan) -> Result<(), StageError> {
    let program = Restrictions {
        read_only: true,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    let mut clones = vec![(MountClone::of(held(FIRECRACKER)?, program)?, PROGRAM)];
    let roots = plan.roots.iter().map(|root| Dir::open(root));
    let roots = roots.collect::<Result<Vec<_>, _>>()?;
    for (number, file) in (FILES..).zip(&plan.files) {
        let restrictions = Restrictions {
            read_only: file.read_only,
            no_exec: true,
            ..program
        };
        // Opened in the daemon's mount namespace, of which the kernel clones nothing here.
        let given = held(number)?;
        let found = roots.iter().find_map(|root| root.find(&given).ok());
        let found = found.ok_or_else(|| StageError::Elsewhere(file.target.clone()))?;
        clones.push((MountClone::of(found, restrictions)?, &file.target));
    }
    let jail = enter_private(held(JAIL)?)?;
    for (clone, target) in clones {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let target = openat2(&jail, target, flags, Mode::empty(), resolve);
        clone.attach(target.map_err(step("open a file's place"))?)?;
    }
    Ok(())
}

/// Standard input becomes nothing, standard error the console, as standard output is.
fn take_console() -> Result<(), StageError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = openat(CWD, "/dev/null", flags, Mode::empty()).map_err(step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("replace standard input"))?;
    rustix::stdio::dup2_stderr(rustix::stdio::stdout()).map_err(step("replace standard error"))
}

/// Limits, and capabilities without a way to more.
fn give_up(plan: &Plan) -> Result<(), StageError> {
    caps::limit(Resource::Fsize, plan.file_limit).map_err(step("limit the size of files"))?;
    caps::forbid_new_privileges().map_err(step("forbid new privileges"))?;
    let own = rustix::thread::capabilities(None).map_err(step("read capabilities"))?;
    // Without it the bounding set stays the helper's; what is in it can no more be had.
    if own.effective.contains(CapabilitySet::SETPCAP) {
        caps::drop_bounding(CAPABILITIES).map_err(step("bound capabilities"))?;
    }
    caps::restrict(CAPABILITIES, false).map_err(step("give up capabilities"))
}

fn arguments(plan: &Plan) -> Result<Vec<CString>, StageError> {
    let uid = plan.uid.to_string();
    let jail = readlinkat(CWD, format!("/proc/self/fd/{JAIL}"), Vec::new());
    let jail = jail.map_err(step("find the jail"))?.into_string();
    let jail = jail.map_err(|_| StageError::Plan)?;
    let program = format!("{jail}/{PROGRAM}");
    let jailer = ["jailer", "--id", &plan.id, "--exec-file", &program];
    let identity = ["--uid", &uid, "--gid", &uid, "--chroot-base-dir", &jail];
    // No group is asked for, so it stays in its own.
    let rest = ["--cgroup-version", "2", "--", "--config-file", MACHINE];
    let firecracker = [
        "--api-sock",
        API_SOCKET,
        "--log-path",
        LOG,
        "--level",
        "Info",
        "--show-level",
    ];
    let words = jailer
        .iter()
        .chain(&identity)
        .chain(&rest)
        .chain(&firecracker);
    words
        .map(|word| CString::new(*word).map_err(|_| StageError::Plan))
        .collect()
}
