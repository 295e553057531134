//! From what was asked to what will be done: pure, given the facts.

use banger_api::{Config, InitMode, NetworkMode, RestartPolicy, SetVm, StorageMode, VmSpec};
use banger_names::{ByteSize, Digest, InvalidName, KernelName, VmId, VmName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Virtual CPUs that a VM can have at most.
pub(crate) const MAX_CPUS: u32 = 32;
/// The least memory a VM can have.
pub(crate) const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// The smallest writable disk.
pub(crate) const MIN_DISK: ByteSize = ByteSize::mib(64);
/// The largest writable disk.
pub(crate) const MAX_DISK: ByteSize = ByteSize::gib(1024);
/// What must be free on the state's file system before a VM is made.
pub(crate) const RESERVE: ByteSize = ByteSize::gib(1);

const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 256;
/// All keys and values together: a VM's view must fit into one control frame.
const MAX_LABEL_BYTES: usize = 4096;
const MAX_REFERENCE: usize = 200;

/// What is known about the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostFacts {
    /// Its memory.
    pub(crate) memory: ByteSize,
    /// What is free on the file system of VM disks.
    pub(crate) disk_free: ByteSize,
    /// What must stay free there, usually [`RESERVE`].
    pub(crate) reserve: ByteSize,
    /// Whether there is a helper, which can make a network by NAT and snapshots.
    pub(crate) has_helper: bool,
    /// The network of a VM when nobody says which.
    pub(crate) network: NetworkMode,
}

/// What was decided before image and kernel are known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmDraft {
    /// The name, if one was asked for.
    pub(crate) name: Option<VmName>,
    /// The image's tag or digest.
    pub(crate) image: String,
    /// The kernel's name or digest; the default one if left out.
    pub(crate) kernel: Option<String>,
    cpus: u32,
    memory: ByteSize,
    disk: ByteSize,
    /// Whether it was asked for by name, and not by the configuration for all VMs.
    is_disk_asked: bool,
    /// How the disk is kept apart from the image.
    pub(crate) storage: StorageMode,
    /// The network.
    pub(crate) network: NetworkMode,
    init: InitMode,
    labels: BTreeMap<String, String>,
    restart: RestartPolicy,
    ttl_ms: Option<u64>,
    ephemeral: bool,
}

/// The image that a draft names, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// Its content.
    pub(crate) digest: Digest,
    /// The size of its file system.
    pub(crate) size: ByteSize,
}

/// What was decided about a VM; [`VmChange`] is the only way to decide otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmPlan {
    /// Its name.
    pub(crate) name: VmName,
    /// The image as asked for.
    pub(crate) image: String,
    /// The image's content.
    pub(crate) image_digest: Digest,
    /// The kernel's name when the VM was made.
    pub(crate) kernel: KernelName,
    /// The kernel's content.
    pub(crate) kernel_digest: Digest,
    /// Virtual CPUs, 1 to [`MAX_CPUS`].
    pub(crate) cpus: u32,
    /// Memory.
    pub(crate) memory: ByteSize,
    /// Size of the writable disk; with a snapshot, how much of the root can be written.
    pub(crate) disk: ByteSize,
    /// How the disk is kept apart from the image; once there was only one way.
    #[serde(default)]
    pub(crate) storage: StorageMode,
    /// The size of the root file system with a snapshot: the image's.
    #[serde(default)]
    pub(crate) root_size: Option<ByteSize>,
    /// The network.
    pub(crate) network: NetworkMode,
    /// Who is PID 1.
    pub(crate) init: InitMode,
    /// Free labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it goes away with the run that made it.
    pub(crate) ephemeral: bool,
    /// When it is started again by itself.
    #[serde(default)]
    pub(crate) restart: RestartPolicy,
    /// How long it may run, in milliseconds.
    #[serde(default)]
    pub(crate) ttl_ms: Option<u64>,
}

/// Why a VM cannot be as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The count of CPUs.
    #[error("give the VM {0} CPUs: 1 to {MAX_CPUS} are possible")]
    Cpus(u32),
    /// The memory.
    #[error("give the VM {asked} of memory: {MIN_MEMORY} to {most} are possible on this host")]
    Memory {
        /// What was asked.
        asked: ByteSize,
        /// What the host has.
        most: ByteSize,
    },
    /// The disk.
    #[error("give the VM a disk of {0}: {MIN_DISK} to {MAX_DISK} are possible")]
    Disk(ByteSize),
    /// A label.
    #[error("label the VM with {key:?}: {rule}")]
    Label {
        /// The label's key, cut.
        key: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The image's or kernel's name.
    #[error("use {what} {text:?}: that is no name")]
    Reference {
        /// `image` or `kernel`.
        what: &'static str,
        /// What was given, cut.
        text: String,
    },
    /// Only what is kept can be started again.
    #[error("start a VM again by itself: it is removed when its run ends")]
    NotKept,
    /// The network needs root.
    #[error("give a VM a network by NAT: it needs root, and banger has none here")]
    NoHelper,
    /// Snapshots need root.
    #[error("give a VM a snapshot of its image: it needs root, and banger has none here")]
    NoSnapshots,
    /// More than a snapshot has.
    #[error("give the VM a disk of {asked}: with storage snapshot it has its image's {most}")]
    SnapshotDisk {
        /// What was asked.
        asked: ByteSize,
        /// The image's size.
        most: ByteSize,
    },
    /// The disk is nearly full.
    #[error("make a VM: {free} are free for VM disks, {reserve} must be")]
    NoSpace {
        /// What is free.
        free: ByteSize,
        /// What must be.
        reserve: ByteSize,
    },
    /// The name made from the id is no name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl PlanError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoSpace { .. } => {
                Some("remove what is not needed: `banger vm list`, `banger image ls`".into())
            }
            Self::NotKept => Some("keep it: banger vm run --name NAME, or banger vm create".into()),
            Self::NoHelper => Some("sudo banger system install, or use --network user".into()),
            Self::NoSnapshots => {
                Some("sudo banger system install, or use --storage overlay".into())
            }
            Self::SnapshotDisk { .. } => Some("leave --disk out, or use --storage overlay".into()),
            Self::Cpus(_) => Some("choose another number with -c".into()),
            Self::Memory { .. } => Some("choose another size with -m".into()),
            Self::Disk(_) => Some("choose another size with --disk".into()),
            _ => None,
        }
    }
}

/// Decides what can be decided from the request, the configuration and the host.
pub(crate) fn draft(
    spec: &VmSpec,
    config: &Config,
    facts: &HostFacts,
    ephemeral: bool,
) -> Result<VmDraft, PlanError> {
    let defaults = &config.vm;
    let draft = VmDraft {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_else(|| defaults.image.clone()),
        kernel: spec.kernel.clone(),
        cpus: spec.cpus.unwrap_or(defaults.cpus),
        memory: spec.memory.unwrap_or(defaults.memory),
        disk: spec.disk.unwrap_or(defaults.disk),
        is_disk_asked: spec.disk.is_some(),
        storage: spec.storage.unwrap_or(defaults.storage),
        network: spec.network.or(defaults.network).unwrap_or(facts.network),
        init: spec.init.unwrap_or(defaults.init),
        labels: spec.labels.clone(),
        restart: spec.restart.unwrap_or_default(),
        ttl_ms: spec.ttl_ms.filter(|&ms| ms > 0),
        ephemeral,
    };
    if ephemeral && draft.restart != RestartPolicy::No {
        return Err(PlanError::NotKept);
    }
    check_reference("image", &draft.image)?;
    if let Some(kernel) = &draft.kernel {
        check_reference("kernel", kernel)?;
    }
    check_size(draft.cpus, draft.memory, facts.memory)?;
    if draft.disk < MIN_DISK || draft.disk > MAX_DISK {
        return Err(PlanError::Disk(draft.disk));
    }
    check_labels(&draft.labels)?;
    if draft.network == NetworkMode::Nat && !facts.has_helper {
        return Err(PlanError::NoHelper);
    }
    if draft.storage == StorageMode::Snapshot && !facts.has_helper {
        return Err(PlanError::NoSnapshots);
    }
    if facts.disk_free < facts.reserve {
        return Err(PlanError::NoSpace {
            free: facts.disk_free,
            reserve: facts.reserve,
        });
    }
    Ok(draft)
}

impl VmDraft {
    /// The plan, now that image and kernel are known and the id is drawn.
    pub(crate) fn resolve(
        self,
        id: &VmId,
        image: ImageFacts,
        kernel: KernelName,
        kernel_digest: Digest,
    ) -> Result<VmPlan, PlanError> {
        let name = match self.name {
            Some(name) => name,
            None => made_name(id, self.ephemeral)?,
        };
        let (disk, root_size) = match self.storage {
            StorageMode::Overlay => (self.disk, None),
            StorageMode::Snapshot if !self.is_disk_asked => (image.size, Some(image.size)),
            StorageMode::Snapshot if self.disk > image.size => {
                return Err(PlanError::SnapshotDisk {
                    asked: self.disk,
                    most: image.size,
                });
            }
            StorageMode::Snapshot => (self.disk, Some(image.size)),
        };
        Ok(VmPlan {
            name,
            image: self.image,
            image_digest: image.digest,
            kernel,
            kernel_digest,
            cpus: self.cpus,
            memory: self.memory,
            disk,
            storage: self.storage,
            root_size,
            network: self.network,
            init: self.init,
            labels: self.labels,
            restart: self.restart,
            ttl_ms: self.ttl_ms,
            ephemeral: self.ephemeral,
        })
    }
}

/// What is to be decided otherwise about a VM that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmChange {
    /// Another name.
    Rename(VmName),
    /// What `set` names; the rest stays.
    Set {
        /// What is asked.
        asked: SetVm,
        /// The host's memory.
        most_memory: ByteSize,
    },
}

impl VmChange {
    /// The plan as it becomes.
    pub(crate) fn apply(&self, plan: &VmPlan) -> Result<VmPlan, PlanError> {
        let mut plan = plan.clone();
        match self {
            Self::Rename(name) => plan.name = name.clone(),
            Self::Set { asked, most_memory } => {
                plan.cpus = asked.cpus.unwrap_or(plan.cpus);
                plan.memory = asked.memory.unwrap_or(plan.memory);
                if asked.cpus.is_some() || asked.memory.is_some() {
                    check_size(plan.cpus, plan.memory, *most_memory)?;
                }
                for (key, value) in &asked.labels {
                    match value {
                        Some(value) => plan.labels.insert(key.clone(), value.clone()),
                        None => plan.labels.remove(key),
                    };
                }
                check_labels(&plan.labels)?;
                if let Some(restart) = asked.restart {
                    if plan.ephemeral && restart != RestartPolicy::No {
                        return Err(PlanError::NotKept);
                    }
                    plan.restart = restart;
                }
                if let Some(ms) = asked.ttl_ms {
                    plan.ttl_ms = (ms > 0).then_some(ms);
                }
            }
        }
        Ok(plan)
    }
}

/// A name for a VM that got none; a name cannot have the form of an id.
fn made_name(id: &VmId, ephemeral: bool) -> Result<VmName, InvalidName> {
    let digits = id.as_str().trim_start_matches("vm-");
    let kind = if ephemeral { "run" } else { "box" };
    VmName::parse(&format!("{kind}-{digits}"))
}

fn check_size(cpus: u32, memory: ByteSize, most: ByteSize) -> Result<(), PlanError> {
    if !(1..=MAX_CPUS).contains(&cpus) {
        return Err(PlanError::Cpus(cpus));
    }
    if memory < MIN_MEMORY || memory > most {
        return Err(PlanError::Memory {
            asked: memory,
            most,
        });
    }
    Ok(())
}

fn check_reference(what: &'static str, text: &str) -> Result<(), PlanError> {
    if text.is_empty() || text.len() > MAX_REFERENCE || text.contains(char::is_control) {
        return Err(PlanError::Reference {
            what,
            text: text.chars().take(80).collect(),
        });
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), PlanError> {
    let mut bytes = 0;
    for (count, (key, value)) in labels.iter().enumerate() {
        let refuse = |rule| {
            Err(PlanError::Label {
                key: key.chars().take(80).collect(),
                rule,
            })
        };
        if count >= MAX_LABELS {
            return refuse("a VM has at most 64 labels");
        }
        if key.is_empty() || key.len() > MAX_LABEL_KEY {
            return refuse("a key has 1 to 63 characters");
        }
        if !key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        {
            return refuse("a key has only letters, digits, . _ - and /");
        }
        if value.len() > MAX_LABEL_VALUE || value.contains(char::is_control) {
            return refuse("a value has at most 256 bytes and no control characters");
        }
        bytes += key.len() + value.len();
        if bytes > MAX_LABEL_BYTES {
            return refuse("a VM's labels have at most 4096 bytes in all");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
