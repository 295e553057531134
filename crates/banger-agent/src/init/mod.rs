//! Process 1: from the initramfs to a usable guest, and to its end.
//!
//! The order is: the kernel's own file systems, the boot configuration, the seed (before anything could
//! ask for random numbers), modules, root, identity, network; then the channel is opened and requests
//! are served. What is needed to be reached at all is fatal when it fails; the rest is noted and
//! reported by `Health`.

mod handover;
mod identity;
mod modules;
mod mounts;
mod network;
mod power_off;
mod seed;
pub mod uevent;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest::boot::{BOOT_CONFIG_PATH, BootConfig, Init};
use banger_sys::signals::{self, SIGCHLD, SIGINT, SIGTERM};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};

use crate::channel::{self, ChannelError};
use crate::log;
use crate::reaper::Reaper;
use crate::serve::{Agent, read_small};
use uevent::Uevents;

/// How long devices may take to appear. Emulated machines are slow; none is that slow.
const DEVICE_DEADLINE: Duration = Duration::from_secs(30);

const MAX_CONFIG: u64 = 1024 * 1024;

/// What a process may have open, and what it may raise that to (as systemd has it).
const OPEN_FILES: u64 = 4096;
const OPEN_FILES_MAX: u64 = 524_288;

/// What init waits for.
const SIGNALS: [signals::Number; 3] = [SIGCHLD, SIGINT, SIGTERM];

/// Why the guest cannot be made usable.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A step failed.
    #[error("{operation}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The boot configuration does not parse.
    #[error("parse {BOOT_CONFIG_PATH}")]
    Config(#[source] serde_json::Error),
    /// A device did not appear.
    #[error("wait for {device}: it did not appear within {} s", DEVICE_DEADLINE.as_secs())]
    NoDevice {
        /// Its path.
        device: String,
    },
    /// A value of the configuration is not what it should be.
    #[error("understand {what} {value:?} of the boot configuration")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// Hosts cannot reach the agent.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Says what failed, for `map_err`.
pub(crate) fn failed<E: Into<std::io::Error>>(
    operation: impl Into<String>,
) -> impl FnOnce(E) -> InitError {
    let operation = operation.into();
    move |source| InitError::Io {
        operation,
        source: source.into(),
    }
}

/// Boots and serves. Returns only beside another init; as PID 1 the guest ends in here.
pub fn run() -> ExitCode {
    let mut disk = None;
    match boot(&mut disk) {
        Ok(Role::Init(agent)) => live(&agent, disk),
        Ok(Role::Beside) => wait_for_end(),
        Err(error) => {
            log::error(&format!("fatal: {}", log::chain(&error)));
            power_off::at_once(disk.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// What this process is once the guest is up.
enum Role {
    Init(Arc<Agent>),
    /// The image's init is PID 1.
    Beside,
}

fn boot(disk: &mut Option<mounts::Disk>) -> Result<Role, InitError> {
    // Before any thread: all inherit the mask, so that only the waits get these signals.
    signals::block(&SIGNALS).map_err(failed("block signals"))?;
    mounts::mount_kernel_file_systems()?;
    log::use_kernel_log();
    let config = read_config()?;
    let mut problems = Vec::new();
    let mut note = |result: Result<(), InitError>| {
        if let Err(error) = result {
            let text = log::chain(&error);
            log::error(&text);
            problems.push(text);
        }
    };
    note(seed::add(&config.seed));
    let uevents = Uevents::listen().map_err(failed("listen for devices"))?;
    modules::insert_all()?;
    let deadline = Instant::now() + DEVICE_DEADLINE;
    *disk = Some(mounts::mount_root(&config.root, &uevents, deadline)?);
    mounts::enter_root()?;
    mounts::mount_runtime_file_systems()
        .into_iter()
        .for_each(&mut note);
    note(identity::set_clock(config.clock_unix_ms));
    note(identity::set_names(&config.hostname));
    note(identity::write_machine_id());
    note(network::bring_up(
        config.network.as_ref(),
        &uevents,
        deadline,
    ));
    // Ctrl-Alt-Del becomes SIGINT for init.
    note(reboot(RebootCommand::CadOff).map_err(failed("take over Ctrl-Alt-Del")));
    let role = if config.init == Init::Image {
        match handover::to_image_init() {
            Ok(()) => Some(()),
            Err(error) => {
                note(Err(error));
                None
            }
        }
    } else {
        None
    };
    let is_init = role.is_none();
    note(raise_limits());
    let (reaper, power_off): (_, fn()) = if is_init {
        (Reaper::all(), power_off::ask_self)
    } else {
        (Reaper::own(), handover::ask_image_init)
    };
    let agent = Arc::new(Agent::new(reaper, is_init, problems, power_off));
    channel::start(&agent, &config.channel, &uevents, deadline)?;
    log::info("serving");
    log::console("ready");
    Ok(if is_init {
        Role::Init(agent)
    } else {
        Role::Beside
    })
}

/// Room for many streams and commands; commands inherit it. The kernel's default for init is 1024 open
/// files and no more than 4096 for anybody.
fn raise_limits() -> Result<(), InitError> {
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES_MAX),
    };
    setrlimit(Resource::Nofile, limit).map_err(failed("raise the limit of open files"))
}

fn read_config() -> Result<BootConfig, InitError> {
    let text = read_small(BOOT_CONFIG_PATH, MAX_CONFIG)
        .map_err(failed(format!("read {BOOT_CONFIG_PATH}")))?;
    serde_json::from_str(&text).map_err(InitError::Config)
}

/// Reaps until told to end.
fn live(agent: &Agent, disk: Option<mounts::Disk>) -> ExitCode {
    loop {
        match signals::wait(&SIGNALS, None) {
            Ok(Some(SIGCHLD)) => {
                agent.reaper.reap_all();
            }
            Ok(_) => break,
            Err(errno) => {
                log::error(&format!("wait for signals: {errno}"));
                break;
            }
        }
    }
    power_off::in_order(&agent.reaper, disk.as_ref());
    ExitCode::FAILURE
}

/// The image's init ends its processes by TERM.
fn wait_for_end() -> ExitCode {
    match signals::wait(&[SIGINT, SIGTERM], None) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
