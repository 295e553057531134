//! From what was asked to what will be done: pure, given the facts.

use banger_api::{Config, InitMode, NetworkMode, VmSpec};
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
    /// Whether there is a helper that can make a network by NAT.
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
    network: NetworkMode,
    init: InitMode,
    labels: BTreeMap<String, String>,
    ephemeral: bool,
}

/// What was decided about a VM; fixed for its life.
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
    /// Size of the writable disk.
    pub(crate) disk: ByteSize,
    /// The network.
    pub(crate) network: NetworkMode,
    /// Who is PID 1.
    pub(crate) init: InitMode,
    /// Free labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it goes away with the run that made it.
    pub(crate) ephemeral: bool,
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
    /// The network needs root.
    #[error("give a VM a network by NAT: it needs root, and banger has none here")]
    NoHelper,
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
            Self::NoHelper => Some("sudo banger system install, or use --network user".into()),
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
        network: spec.network.or(defaults.network).unwrap_or(facts.network),
        init: spec.init.unwrap_or(defaults.init),
        labels: spec.labels.clone(),
        ephemeral,
    };
    check_reference("image", &draft.image)?;
    if let Some(kernel) = &draft.kernel {
        check_reference("kernel", kernel)?;
    }
    if !(1..=MAX_CPUS).contains(&draft.cpus) {
        return Err(PlanError::Cpus(draft.cpus));
    }
    if draft.memory < MIN_MEMORY || draft.memory > facts.memory {
        return Err(PlanError::Memory {
            asked: draft.memory,
            most: facts.memory,
        });
    }
    if draft.disk < MIN_DISK || draft.disk > MAX_DISK {
        return Err(PlanError::Disk(draft.disk));
    }
    check_labels(&draft.labels)?;
    if draft.network == NetworkMode::Nat && !facts.has_helper {
        return Err(PlanError::NoHelper);
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
        image_digest: Digest,
        kernel: KernelName,
        kernel_digest: Digest,
    ) -> Result<VmPlan, PlanError> {
        let name = match self.name {
            Some(name) => name,
            None => made_name(id, self.ephemeral)?,
        };
        Ok(VmPlan {
            name,
            image: self.image,
            image_digest,
            kernel,
            kernel_digest,
            cpus: self.cpus,
            memory: self.memory,
            disk: self.disk,
            network: self.network,
            init: self.init,
            labels: self.labels,
            ephemeral: self.ephemeral,
        })
    }
}

/// A name for a VM that got none; a name cannot have the form of an id.
fn made_name(id: &VmId, ephemeral: bool) -> Result<VmName, InvalidName> {
    let digits = id.as_str().trim_start_matches("vm-");
    let kind = if ephemeral { "run" } else { "box" };
    VmName::parse(&format!("{kind}-{digits}"))
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
mod tests {
    use super::*;

    const FACTS: HostFacts = HostFacts {
        memory: ByteSize::gib(8),
        disk_free: ByteSize::gib(50),
        reserve: RESERVE,
        has_helper: false,
        network: NetworkMode::User,
    };

    fn try_draft(spec: &VmSpec) -> Result<VmDraft, PlanError> {
        draft(spec, &Config::default(), &FACTS, false)
    }

    #[test]
    fn what_is_left_out_comes_from_the_configuration() {
        let plan = try_draft(&VmSpec::default())
            .unwrap()
            .resolve(
                &VmId::from_bits(0x1234_abcd),
                Digest::from_sha256([1; 32]),
                "k".parse().unwrap(),
                Digest::from_sha256([2; 32]),
            )
            .unwrap();
        assert_eq!(plan.name.as_str(), "box-1234abcd");
        assert_eq!(plan.image, "debian");
        assert_eq!(plan.memory, ByteSize::gib(1));
    }

    #[test]
    fn draft_refuses_what_is_out_of_range() {
        let base = VmSpec::default();
        let bad = [
            VmSpec {
                cpus: Some(0),
                ..base.clone()
            },
            VmSpec {
                cpus: Some(33),
                ..base.clone()
            },
            VmSpec {
                memory: Some(ByteSize::mib(127)),
                ..base.clone()
            },
            VmSpec {
                memory: Some(ByteSize::gib(9)),
                ..base.clone()
            },
            VmSpec {
                memory: Some(ByteSize(u64::MAX)),
                ..base.clone()
            },
            VmSpec {
                disk: Some(ByteSize::mib(63)),
                ..base.clone()
            },
            VmSpec {
                disk: Some(ByteSize(u64::MAX)),
                ..base.clone()
            },
            VmSpec {
                image: Some(String::new()),
                ..base.clone()
            },
            VmSpec {
                image: Some("a\u{1b}[31m".into()),
                ..base.clone()
            },
            VmSpec {
                kernel: Some("x".repeat(201)),
                ..base.clone()
            },
            VmSpec {
                labels: BTreeMap::from([("a b".into(), String::new())]),
                ..base.clone()
            },
            VmSpec {
                labels: BTreeMap::from([("a".into(), "\n".into())]),
                ..base.clone()
            },
            VmSpec {
                labels: (0..20)
                    .map(|n| (format!("k{n}"), "v".repeat(250)))
                    .collect(),
                ..base.clone()
            },
            VmSpec {
                labels: (0..65).map(|n| (format!("k{n}"), String::new())).collect(),
                ..base.clone()
            },
        ];
        for spec in bad {
            assert!(try_draft(&spec).is_err(), "{spec:?}");
        }
    }

    #[test]
    fn the_network_is_what_was_asked_for_or_the_best_there_is() {
        let with_helper = HostFacts {
            has_helper: true,
            network: NetworkMode::Nat,
            ..FACTS
        };
        let of = |facts: &HostFacts, asked, configured| {
            let spec = VmSpec {
                network: asked,
                ..VmSpec::default()
            };
            let mut config = Config::default();
            config.vm.network = configured;
            draft(&spec, &config, facts, false).map(|draft| draft.network)
        };
        let (nat, user, none) = (NetworkMode::Nat, NetworkMode::User, NetworkMode::None);
        assert_eq!(of(&FACTS, None, None), Ok(user));
        assert_eq!(of(&with_helper, None, None), Ok(nat));
        assert_eq!(of(&with_helper, None, Some(none)), Ok(none));
        assert_eq!(of(&with_helper, Some(user), Some(none)), Ok(user));
        assert_eq!(of(&FACTS, Some(nat), None), Err(PlanError::NoHelper));
    }

    #[test]
    fn draft_refuses_a_nearly_full_disk() {
        let facts = HostFacts {
            disk_free: ByteSize::mib(1023),
            ..FACTS
        };
        let error = draft(&VmSpec::default(), &Config::default(), &facts, true).unwrap_err();
        assert!(matches!(error, PlanError::NoSpace { .. }));
        assert!(error.hint().is_some());
    }
}
