//! Which engine this host offers, and what stands in the way of a better one.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::qemu::{self, Qemu, Version};
use crate::{Engine, EngineError, Kvm, probe_kvm};

/// The engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// QEMU's `qemu-system-x86_64`.
    Qemu,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qemu => "qemu",
        })
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The CPU, through KVM.
    Kvm,
    /// QEMU's emulation, several times slower.
    Tcg,
}

/// Something a doctor has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `qemu` or `kvm`.
    pub subject: String,
    /// How it is.
    pub level: Level,
    /// What was seen, in one line.
    pub message: String,
    /// What the user can do, where anything is to be done.
    pub fix: Option<String>,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// VMs run, but not as well as they could.
    Warning,
    /// No VM can run.
    Error,
}

/// Chooses the best engine of this host within the caller's wishes.
pub async fn choose(
    prefer: Option<EngineKind>,
    accel: Option<Accel>,
) -> Result<Arc<dyn Engine>, EngineError> {
    match prefer {
        None | Some(EngineKind::Qemu) => {}
    }
    let look = tokio::task::spawn_blocking(|| (qemu::find(), probe_kvm()));
    let (found, kvm) = look.await.map_err(|error| EngineError::Io {
        step: "look for an engine".into(),
        source: error.into(),
    })?;
    let (path, version) = found?;
    let (accel, why) = decide(accel, &kvm)?;
    Ok(Arc::new(Qemu::new(path, version, accel, why)))
}

/// Which acceleration to use, and why if it is not the one everybody wants.
fn decide(asked: Option<Accel>, kvm: &Kvm) -> Result<(Accel, String), EngineError> {
    match (asked, kvm) {
        (Some(Accel::Tcg), _) => Ok((Accel::Tcg, "asked for".into())),
        (Some(Accel::Kvm), Kvm::Unusable { reason, fix }) => Err(EngineError::Kvm {
            reason: reason.clone(),
            fix: fix.clone(),
        }),
        (None | Some(Accel::Kvm), Kvm::Works) => Ok((Accel::Kvm, String::new())),
        (None, Kvm::Unusable { reason, .. }) => Ok((Accel::Tcg, reason.clone())),
    }
}

/// Looks at all that engines need, for the doctor. Blocks for some 20 ms.
pub fn findings() -> Vec<Finding> {
    vec![qemu_finding(qemu::find()), kvm_finding(probe_kvm())]
}

fn qemu_finding(found: Result<(std::path::PathBuf, Version), EngineError>) -> Finding {
    let subject = "qemu".to_owned();
    match found {
        Ok((path, version)) if version.is_supported() => Finding {
            subject,
            level: Level::Ok,
            message: format!("QEMU {version} at {}", path.display()),
            fix: None,
        },
        Ok((path, version)) => Finding {
            subject,
            level: Level::Warning,
            message: format!(
                "QEMU {version} at {} is older than {}, the oldest that banger is tested with",
                path.display(),
                Version::OLDEST
            ),
            fix: Some("install a newer qemu-system-x86".into()),
        },
        Err(error) => Finding {
            subject,
            level: Level::Error,
            fix: error.fix().map(str::to_owned),
            message: match error {
                EngineError::Missing {
                    program, reason, ..
                } => format!("{program}: {reason}"),
                other => other.to_string(),
            },
        },
    }
}

fn kvm_finding(kvm: Kvm) -> Finding {
    let subject = "kvm".to_owned();
    match kvm {
        Kvm::Works => Finding {
            subject,
            level: Level::Ok,
            message: "/dev/kvm opens and the CPU virtualises".into(),
            fix: None,
        },
        Kvm::Unusable { reason, fix } => Finding {
            subject,
            level: Level::Warning,
            message: format!("{reason}, using emulation"),
            fix,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Kvm {
        Kvm::Unusable {
            reason: "the CPU shows neither vmx nor svm".into(),
            fix: None,
        }
    }

    #[test]
    fn kvm_is_taken_where_it_works_and_never_forced_where_it_does_not() {
        assert_eq!(decide(None, &Kvm::Works).unwrap().0, Accel::Kvm);
        let (accel, why) = decide(None, &broken()).unwrap();
        assert_eq!(accel, Accel::Tcg);
        assert!(why.contains("neither vmx nor svm"));
        assert!(decide(Some(Accel::Kvm), &broken()).is_err());
        assert_eq!(decide(Some(Accel::Tcg), &Kvm::Works).unwrap().0, Accel::Tcg);
    }

    #[test]
    fn findings_name_a_fix_for_what_is_missing() {
        let missing = EngineError::Missing {
            program: "qemu-system-x86_64",
            reason: "it is not installed".into(),
            fix: "sudo apt-get install qemu-system-x86".into(),
        };
        let finding = qemu_finding(Err(missing));
        assert_eq!(finding.level, Level::Error);
        assert!(finding.fix.unwrap().contains("qemu-system-x86"));
        let kvm = kvm_finding(broken());
        assert_eq!(kvm.level, Level::Warning);
        assert!(kvm.message.ends_with("using emulation"));
    }
}
