//! A Firecracker in a jail: started by whoever made the jail, from files that are opened here.
//!
//! It inherits nothing of ours, so the locks on its drives are this daemon's; `drives.json` in
//! the run directory tells the next daemon which ones to take again.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, fchmod, fchown, fstat};
use rustix::io::Errno;
use rustix::process::getegid;
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::config;
use super::huge;
use super::launch::{CONSOLE_FIFO, MACHINE_FILE, VMM_FIFO, sources};
use super::locks;
use super::machine::{FirecrackerMachine, last_words};
use super::vsock::{Called, Vsock, ready_socket};
use crate::held::{CONSOLE_LOG, Held, Sources, VMM_LOG, Vmm, last_lines};
use crate::log::CappedLog;
use crate::process::Process;
use crate::socket::{RunDir, SocketFile};
use crate::{
    Drive, EngineError, Jail, JailFile, JailRole, JailSockets, MachineSpec, NetworkMode, Place,
};

const DRIVES_FILE: &str = "drives.json";

/// The largest list of drives, in bytes: 16 paths of the longest kind, escaped.
const MAX_DRIVES_FILE: u64 = 16 * 6 * 4096;

/// A drive, for the next daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDrive {
    path: PathBuf,
    read_only: bool,
}

/// Starts Firecracker in its jail and waits for its sockets; see [`super::launch::start`].
pub(super) async fn start(
    jail: &Arc<dyn Jail>,
    spec: &MachineSpec,
    place: &Place,
) -> Result<FirecrackerMachine, EngineError> {
    let run = Arc::new(RunDir::open(&place.run_dir)?);
    let started = start_in(jail, spec, place, &run).await;
    if started.is_err() {
        for name in [
            CONSOLE_FIFO,
            VMM_FIFO,
            MACHINE_FILE,
            DRIVES_FILE,
            &ready_socket(),
        ] {
            if let Err(error) = run.remove(name) {
                crate::warn_io(&format!("remove {:?}", run.path().join(name)), &error);
            }
        }
    }
    started
}

async fn start_in(
    jail: &Arc<dyn Jail>,
    spec: &MachineSpec,
    place: &Place,
    run: &Arc<RunDir>,
) -> Result<FirecrackerMachine, EngineError> {
    let huge_pages = spec.huge_pages && huge::suffice(spec.mem_mib);
    let machine = config::machine(&as_seen(jail, spec)?, &jail.vsock_path(), huge_pages)?;
    let console_log = CappedLog::begin(place, CONSOLE_LOG).await?;
    let vmm_log = CappedLog::begin(place, VMM_LOG).await?;
    run.write(MACHINE_FILE, machine.to_string().as_bytes())?;
    keep_drives(run, &spec.drives)?;
    let locks = locks::take(&spec.drives)?;
    let called = Called::listen(Arc::clone(run))?;
    let (console, console_end) = run.make_fifo(CONSOLE_FIFO)?;
    let (words, words_end) = run.make_fifo(VMM_FIFO)?;
    let until_opened = words_end
        .try_clone()
        .map_err(EngineError::io("hold a FIFO twice"))?;
    run.share(&ready_socket())?;
    let mut files = vec![
        file(JailRole::Kernel, locks::lock(&spec.kernel, true)?)?,
        file(JailRole::Initrd, locks::lock(&spec.initrd, true)?)?,
        file(JailRole::Machine, run.open_read(MACHINE_FILE)?)?,
        file(JailRole::Console, console_end)?,
        file(JailRole::Log, words_end)?,
        file(JailRole::Ready, run.open_path(&ready_socket())?)?,
    ];
    for (number, (drive, lock)) in (0..).zip(spec.drives.iter().zip(&locks)) {
        let same = lock
            .try_clone()
            .map_err(EngineError::io("hold a drive twice"))?;
        files.push(file(disk_role(number, drive), same)?);
    }
    let launched = jail.launch(files, spec.cpus, spec.mem_mib).await;
    let process = launched.map_err(EngineError::jail("start Firecracker"))?;
    let sources = sources(console, console_log, words, vmm_log, "");
    let held = watch(Process::of_pidfd(process), jail, sources, place);
    let sockets = held.answers(async {
        let sockets = sockets_of(jail).await;
        // It has opened its log by now, or never will; before that we were the only writer, and
        // without one the reader would have ended.
        drop(until_opened);
        sockets
    });
    let sockets = sockets.await;
    match sockets {
        Ok(sockets) => {
            let (_, api, vsock) = sides(sockets);
            let vsock = Vsock::of_new(vsock, called);
            let machine = FirecrackerMachine::new(held, Api::new(api), vsock);
            Ok(machine.with_locks(locks))
        }
        Err(error) => {
            // The watch for its end removes the jail.
            if let Err(undoing) = held.kill().await {
                tracing::warn!(error = %undoing, "kill a Firecracker that did not start");
            }
            Err(error)
        }
    }
}

/// Takes over a Firecracker that runs in this jail. That it is the right one is the jail's word.
pub(super) async fn adopt(
    jail: &Arc<dyn Jail>,
    place: &Place,
) -> Result<FirecrackerMachine, EngineError> {
    let sockets = sockets_of(jail).await?;
    let run = RunDir::open(&place.run_dir)?;
    let console_log = CappedLog::go_on(place, CONSOLE_LOG).await?;
    let vmm_log = CappedLog::go_on(place, VMM_LOG).await?;
    let console = run.read_fifo(CONSOLE_FIFO)?;
    let words = run.read_fifo(VMM_FIFO)?;
    let locks = kept_drives(&run).unwrap_or_else(|error| {
        // The machine has its drives open whether or not we can lock them.
        tracing::warn!(error = %error, "lock the drives of a running VM again");
        Vec::new()
    });
    let said = last_lines(place.log_dir.join(VMM_LOG)).await;
    let sources = sources(console, console_log, words, vmm_log, &said);
    let (process, api, vsock) = sides(sockets);
    let held = watch(process, jail, sources, place);
    let machine = FirecrackerMachine::new(held, Api::new(api), Vsock::of_jailed(vsock));
    machine.greet_if_awake().await?;
    Ok(machine.with_locks(locks))
}

/// The machine with the paths that Firecracker sees.
fn as_seen(jail: &Arc<dyn Jail>, spec: &MachineSpec) -> Result<MachineSpec, EngineError> {
    if u8::try_from(spec.drives.len()).is_err() {
        return Err(EngineError::Spec("it has more than 255 drives".into()));
    }
    let root = spec.jail_root.map(|cache| Drive {
        path: jail.root_path().into(),
        read_only: false,
        cache,
    });
    let drives = (0..).zip(&spec.drives).map(|(number, drive)| Drive {
        path: jail.path(disk_role(number, drive)).into(),
        ..drive.clone()
    });
    if spec.network == NetworkMode::User {
        return Err(EngineError::Spec(super::NO_USER_NETWORK.into()));
    }
    Ok(MachineSpec {
        kernel: jail.path(JailRole::Kernel).into(),
        initrd: jail.path(JailRole::Initrd).into(),
        drives: root.into_iter().chain(drives).collect(),
        ..spec.clone()
    })
}

fn disk_role(number: u8, drive: &Drive) -> JailRole {
    if drive.read_only {
        JailRole::ReadOnlyDisk(number)
    } else {
        JailRole::Disk(number)
    }
}

/// A file for the jail, with the permissions that its role needs. All are in directories that
/// only we can enter.
fn file(role: JailRole, file: OwnedFd) -> Result<JailFile, EngineError> {
    let (set, clear, is_private) = match role {
        // Read by many VMs, each with a group of its own.
        JailRole::Kernel | JailRole::ReadOnlyDisk(_) => (0o444, 0o022, false),
        JailRole::Initrd | JailRole::Machine => (0o440, 0o027, true),
        JailRole::Disk(_) | JailRole::Log => (0o660, 0o007, true),
        // The one is open already, the other was shared by its name.
        JailRole::Console | JailRole::Ready => return Ok(JailFile { role, file }),
    };
    let fit = || -> Result<(), Errno> {
        let stat = fstat(&file)?;
        let own = getegid();
        if is_private && stat.st_gid != own.as_raw() {
            // It was the group of an earlier start, which may be another VM's by now.
            fchown(&file, None, Some(own))?;
        }
        let mode = stat.st_mode & 0o777;
        let fitting = (mode | set) & !clear;
        if mode != fitting {
            fchmod(&file, Mode::from_raw_mode(fitting))?;
        }
        Ok(())
    };
    fit().map_err(|errno| {
        EngineError::io(format!("let the jail use the file for {role:?}"))(errno.into())
    })?;
    Ok(JailFile { role, file })
}

fn watch(process: Process, jail: &Arc<dyn Jail>, sources: Sources, place: &Place) -> Held {
    let vmm = Vmm::Jailed(process, Arc::clone(jail));
    Held::watch(vmm, sources, place, last_words)
}

async fn sockets_of(jail: &Arc<dyn Jail>) -> Result<JailSockets, EngineError> {
    let sockets = jail.sockets().await;
    let sockets = sockets.map_err(EngineError::jail("reach Firecracker"))?;
    sockets.ok_or_else(|| EngineError::NotOurs {
        pid: 0,
        reason: "it is gone".into(),
    })
}

fn sides(sockets: JailSockets) -> (Process, SocketFile, SocketFile) {
    (
        Process::of_pidfd(sockets.process),
        SocketFile::Held(Arc::new(sockets.api), "API"),
        SocketFile::Held(Arc::new(sockets.vsock), "vsock"),
    )
}

fn keep_drives(run: &RunDir, drives: &[Drive]) -> Result<(), EngineError> {
    let kept: Vec<KeptDrive> = drives
        .iter()
        .map(|drive| KeptDrive {
            path: drive.path.clone(),
            read_only: drive.read_only,
        })
        .collect();
    let text = serde_json::to_vec(&kept)
        .map_err(|error| EngineError::io("write the list of drives")(error.into()))?;
    run.write(DRIVES_FILE, &text)
}

fn kept_drives(run: &RunDir) -> Result<Vec<OwnedFd>, EngineError> {
    let step = || EngineError::io("read the list of drives");
    let mut text = Vec::new();
    File::from(run.open_read(DRIVES_FILE)?)
        .take(MAX_DRIVES_FILE)
        .read_to_end(&mut text)
        .map_err(step())?;
    let kept: Vec<KeptDrive> =
        serde_json::from_slice(&text).map_err(|error| step()(error.into()))?;
    let lock = |drive: &KeptDrive| locks::lock(&drive.path, drive.read_only);
    kept.iter().map(lock).collect()
}
