//! Keys for ssh: one of the owner's for all VMs, one per VM made here and pinned.
//!
//! A VM's host key never comes from the guest, so the first connection is as safe as the
//! tenth: `known_hosts` is written from the keys that this daemon made.

use crate::daemon::Daemon;
use crate::files::read_small;
use crate::problem::Refusal;
use crate::vm::handle::VmHandle;
use crate::vm::place::VmPlace;
use banger_api::{Dirs, ProblemCode, SshView};
use banger_guest::request::Ssh;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A key file is far smaller, in bytes.
const MAX_KEY: u64 = 16 * 1024;

/// Where OpenSSH's key generator is; no search path is trusted.
const KEYGENS: [&str; 2] = ["/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen"];

/// The generator of keys, if it is installed.
pub(crate) fn keygen() -> Option<&'static str> {
    KEYGENS.into_iter().find(|path| Path::new(path).is_file())
}

/// Makes the keys that are missing and pins the VM's.
pub(crate) async fn prepare(daemon: &Daemon, vm: &VmHandle) -> Result<SshView, Refusal> {
    let dir = ssh_dir(daemon);
    let identity = dir.join("id_ed25519");
    let known_hosts = dir.join("known_hosts");
    let host_key = VmPlace::of(daemon.dirs(), &vm.id).host_key();
    let comment = format!("{}.vm", vm.name());
    let guard = daemon.known_hosts().lock().await;
    let made = {
        let identity = identity.clone();
        tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| Refusal::io(format!("make {dir:?}"), &error))?;
            make_key(&identity, "banger")?;
            make_key(&host_key, &comment)
        })
    };
    made.await
        .unwrap_or_else(|error| Err(Refusal::internal("make ssh keys", &error)))?;
    write_locked(daemon).await?;
    drop(guard);
    Ok(SshView {
        host: format!("{}.vm", vm.name()),
        known_hosts: known_hosts.display().to_string(),
        identity: identity.display().to_string(),
    })
}

/// The request that lets the owner into the VM; makes the keys that are missing.
pub(crate) async fn request(daemon: &Daemon, vm: &VmHandle) -> Result<Ssh, Refusal> {
    let view = prepare(daemon, vm).await?;
    let host_key = VmPlace::of(daemon.dirs(), &vm.id).host_key();
    let read = tokio::task::spawn_blocking(move || {
        let owner = public_of(Path::new(&view.identity));
        Ok::<_, std::io::Error>(Ssh {
            host_key: read_small(&host_key, MAX_KEY)?,
            authorized_keys: vec![read_small(&owner, MAX_KEY)?.trim().to_owned()],
        })
    });
    match read.await {
        Ok(Ok(ssh)) => Ok(ssh),
        Ok(Err(error)) => Err(Refusal::io("read the ssh keys", &error)),
        Err(error) => Err(Refusal::internal("read the ssh keys", &error)),
    }
}

/// Writes the file of known hosts from the keys of all VMs.
pub(crate) async fn write_known_hosts(daemon: &Daemon) -> Result<(), Refusal> {
    let _guard = daemon.known_hosts().lock().await;
    write_locked(daemon).await
}

async fn write_locked(daemon: &Daemon) -> Result<(), Refusal> {
    let path = ssh_dir(daemon).join("known_hosts");
    let keys: Vec<(String, PathBuf)> = daemon
        .vms()
        .all()
        .into_iter()
        .map(|vm| {
            let key = VmPlace::of(daemon.dirs(), &vm.id).host_key();
            (format!("{}.vm,{}.vm", vm.name(), vm.id), public_of(&key))
        })
        .collect();
    let written = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for (names, key) in keys {
            match read_small(&key, MAX_KEY) {
                Ok(key) => {
                    // Type and key; the comment has no place here.
                    let mut parts = key.split_ascii_whitespace();
                    if let (Some(kind), Some(key)) = (parts.next(), parts.next()) {
                        text.push_str(&format!("{names} {kind} {key}\n"));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        replace(&path, text.as_bytes())
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refusal::io("write the file of known hosts", &error)),
        Err(error) => Err(Refusal::internal("write the file of known hosts", &error)),
    }
}

fn ssh_dir(daemon: &Daemon) -> PathBuf {
    daemon.dirs().state.join("ssh")
}

fn public_of(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".pub");
    path.into()
}

/// Makes an ed25519 key at `path` (0600), which is on the disk then, unless there is a whole one. What
/// is less, as a loss of power leaves it, is made anew.
fn make_key(path: &Path, comment: &str) -> Result<(), Refusal> {
    let public = public_of(path);
    if is_whole(path, "PRIVATE KEY-----\n") && is_whole(&public, "\n") {
        return Ok(());
    }
    for half in [path, &public] {
        remove_if_there(half).map_err(|error| Refusal::io(format!("replace {half:?}"), &error))?;
    }
    let Some(program) = keygen() else {
        return Err(Refusal::new(
            ProblemCode::HostUnsupported,
            "make an ssh key: ssh-keygen is missing",
        )
        .hint("sudo apt-get install openssh-client"));
    };
    let made = Command::new(program)
        .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Refusal::io("run ssh-keygen", &error))?;
    if made.status.success() {
        // Whoever is let in by it knows it: it must still be the one tomorrow.
        let dir = path.parent().unwrap_or(path);
        for written in [path, &public, dir] {
            std::fs::File::open(written)
                .and_then(|file| file.sync_all())
                .map_err(|error| Refusal::io(format!("write {written:?} through"), &error))?;
        }
        return Ok(());
    }
    let mut refusal = Refusal::new(
        ProblemCode::Internal,
        format!(
            "make the ssh key {path:?}: ssh-keygen ended with {}",
            made.status
        ),
    );
    let words = String::from_utf8_lossy(&made.stderr);
    refusal
        .0
        .causes
        .extend(words.lines().take(4).map(str::to_owned));
    Err(refusal)
}

/// Whether half a key pair is there to its last line's end. One that cannot be read is left to
/// whoever wants to read it.
fn is_whole(path: &Path, end: &str) -> bool {
    match read_small(path, MAX_KEY) {
        Ok(text) => text.ends_with(end),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Removes what a dead daemon has written but not put in its place. Blocks.
pub(crate) fn remove_unfinished(dirs: &Dirs) -> std::io::Result<()> {
    remove_if_there(&new_of(&dirs.known_hosts()))
}

/// What a file is written as before it takes its place.
fn new_of(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    new.into()
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a file (0600) in one step.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = new_of(path);
    remove_if_there(&new)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_is_made_once_private_and_whole() {
        if keygen().is_none() {
            return; // the host has no OpenSSH client; the refusal is tested by its code
        }
        let temp = tempfile::tempdir().unwrap();
        let key = temp.path().join("key");
        make_key(&key, "a b.vm").unwrap();
        let first = std::fs::read(&key).unwrap();
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        make_key(&key, "x").unwrap();
        assert_eq!(std::fs::read(&key).unwrap(), first);
        std::fs::remove_file(public_of(&key)).unwrap();
        make_key(&key, "x").unwrap();
        let second = std::fs::read(&key).unwrap();
        assert_ne!(second, first);
        // Its comment is no part of what it is.
        make_key(&key, "another").unwrap();
        assert_eq!(std::fs::read(&key).unwrap(), second);
        // What a power cut makes of a file that was not written through.
        for half in [&key, &public_of(&key)] {
            std::fs::write(half, "").unwrap();
            make_key(&key, "x").unwrap();
            assert!(is_whole(half, "\n"), "{half:?}");
        }
    }
}
