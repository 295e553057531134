//! The files that the daemon hands over for a VM: each proved on its descriptor to be what its
//! role says, then, where the VM must reach it alone, made reachable by the VM's group.
//!
//! The owner stays the owner. Files that many VMs read (kernels, images) must be readable by
//! others, in directories that are not; those of one VM are given to its group, which also tells
//! them from another VM's. The helper changes no mode: that is the owner's to do before.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use banger_priv::{FileRole, Refusal, RefusalKind, jail};
use banger_sys::dirs::{self, Wanted};
use rustix::fs::{FileType, OFlags, Stat, fcntl_getfl};

use crate::refusal::{chain, failed, refuse};

/// A file that fits its role.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) role: FileRole,
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

/// What a role asks of its file.
struct Rule {
    kind: FileType,
    /// The access modes that the descriptor may have.
    access: &'static [OFlags],
    /// Mode bits that must be set, so that the VM can do what the role says.
    needed: u32,
    /// Mode bits that must not be.
    forbidden: u32,
}

const SET_ID: u32 = 0o6000;
/// Read by this VM and, some, by others; written by nobody but their owner.
const SHARED: Rule = Rule {
    kind: FileType::RegularFile,
    access: &[OFlags::RDONLY],
    needed: 0o004,
    forbidden: SET_ID | 0o022,
};

fn rule(role: FileRole) -> Rule {
    match role {
        FileRole::Kernel | FileRole::ReadOnlyDisk(_) => SHARED,
        FileRole::Initrd | FileRole::Machine => Rule {
            needed: 0o040,
            forbidden: SET_ID | 0o027,
            ..SHARED
        },
        FileRole::Disk(_) => Rule {
            access: &[OFlags::RDWR],
            needed: 0o060,
            forbidden: SET_ID | 0o007,
            ..SHARED
        },
        FileRole::Console => Rule {
            kind: FileType::Fifo,
            access: &[OFlags::WRONLY, OFlags::RDWR],
            needed: 0,
            forbidden: SET_ID | 0o007,
        },
        FileRole::Log => Rule {
            kind: FileType::Fifo,
            access: &[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::PATH],
            needed: 0o060,
            forbidden: SET_ID | 0o007,
        },
        FileRole::Ready => Rule {
            kind: FileType::Socket,
            access: &[OFlags::PATH],
            needed: 0o060,
            forbidden: SET_ID | 0o007,
        },
    }
}

impl Given {
    /// Where the VM finds it, beneath the jail's root; the console is open already.
    pub(super) fn place(&self) -> Option<String> {
        let path = match self.role {
            FileRole::Kernel => jail::KERNEL.to_owned(),
            FileRole::Initrd => jail::INITRD.to_owned(),
            FileRole::Machine => jail::MACHINE.to_owned(),
            FileRole::ReadOnlyDisk(number) | FileRole::Disk(number) => jail::disk(number),
            FileRole::Console => return None,
            FileRole::Log => jail::LOG.to_owned(),
            FileRole::Ready => jail::host_port(jail::READY_PORT),
        };
        Some(path.trim_start_matches('/').to_owned())
    }

    /// Whether it is shown read-only.
    pub(super) fn is_read_only(&self) -> bool {
        // FIFOs and sockets can be written to all the same.
        !matches!(self.role, FileRole::Disk(_))
    }

    /// Whether it is this VM's alone.
    fn is_private(&self) -> bool {
        !self.is_shared() && self.role != FileRole::Console
    }

    fn is_shared(&self) -> bool {
        matches!(self.role, FileRole::Kernel | FileRole::ReadOnlyDisk(_))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            kind: rule(self.role).kind,
            owner: Some(self.stat.st_uid),
            forbidden: SET_ID,
        }
    }

    /// Gives it to the VM's group, if it is this VM's alone.
    pub(super) fn give(&self, gid: u32) -> Result<(), dirs::PathError> {
        if !self.is_private() {
            return Ok(());
        }
        dirs::chown(&self.fd, self.wanted(), None, Some(gid))
    }

    /// Undoes [`Given::give`].
    pub(super) fn take_back(&self) -> Result<(), dirs::PathError> {
        self.give(self.stat.st_gid)
    }
}

/// Takes the descriptors that came with a launch for what `roles` say that they are.
///
/// `foreign` are the groups of other VMs: a file of theirs is not this one's.
pub(super) fn prove(
    owner: u32,
    foreign: &BTreeSet<u32>,
    roles: &[FileRole],
    fds: Vec<OwnedFd>,
) -> Result<Vec<Given>, Refusal> {
    let invalid = |message: String| Err(refuse(RefusalKind::Invalid, message));
    if roles.len() != fds.len() {
        return invalid(format!(
            "{} roles for {} descriptors",
            roles.len(),
            fds.len()
        ));
    }
    let mut given: Vec<Given> = Vec::new();
    for (&role, fd) in roles.iter().zip(fds) {
        if matches!(role, FileRole::Disk(n) | FileRole::ReadOnlyDisk(n) if n >= jail::MAX_DISKS) {
            return invalid(format!("{role:?}: at most {} disks", jail::MAX_DISKS));
        }
        let file = prove_one(owner, foreign, role, fd)?;
        let same_place = |other: &Given| other.place() == file.place();
        let same_file = |other: &Given| {
            (other.stat.st_dev, other.stat.st_ino) == (file.stat.st_dev, file.stat.st_ino)
        };
        if given
            .iter()
            .any(|other| same_place(other) || same_file(other))
        {
            return invalid(format!("{role:?}: given twice"));
        }
        given.push(file);
    }
    let needed = [
        FileRole::Kernel,
        FileRole::Initrd,
        FileRole::Machine,
        FileRole::Console,
        FileRole::Log,
    ];
    match needed
        .iter()
        .find(|role| given.iter().all(|file| file.role != **role))
    {
        Some(role) => invalid(format!("{role:?}: missing")),
        None => Ok(given),
    }
}

fn prove_one(
    owner: u32,
    foreign: &BTreeSet<u32>,
    role: FileRole,
    fd: OwnedFd,
) -> Result<Given, Refusal> {
    let rule = rule(role);
    let wanted = Wanted {
        kind: rule.kind,
        owner: Some(owner),
        forbidden: rule.forbidden,
    };
    let no = |kind, why: &str| refuse(kind, format!("{role:?}: {why}"));
    let stat =
        dirs::prove(&fd, wanted).map_err(|error| no(RefusalKind::Foreign, &chain(&error)))?;
    let flags =
        fcntl_getfl(&fd).map_err(|error| failed(format!("{role:?}: read flags"), &error))?;
    let access = flags & (OFlags::RWMODE | OFlags::PATH);
    if !rule.access.contains(&access) {
        return Err(no(
            RefusalKind::Invalid,
            "opened in another mode than its role's",
        ));
    }
    if stat.st_mode & rule.needed != rule.needed {
        return Err(no(
            RefusalKind::Invalid,
            "its mode does not let the VM use it",
        ));
    }
    if foreign.contains(&stat.st_gid) {
        return Err(no(RefusalKind::Foreign, "it is another VM's"));
    }
    Ok(Given { role, fd, stat })
}

#[cfg(test)]
mod tests;
