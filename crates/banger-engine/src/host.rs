//! What this host has for engines, and what stands in the way of a better one.

use serde::{Deserialize, Serialize};

use crate::firecracker::{self, NO_NETWORK};
use crate::program::{Found, Missing};
use crate::qemu;
use crate::{Kvm, probe_kvm};

/// What this host has.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) qemu: Result<Found, Missing>,
    pub(crate) firecracker: Result<Found, Missing>,
    pub(crate) kvm: Kvm,
    /// What KVM is good for to a VMM in a jail.
    pub(crate) kvm_of_jails: Kvm,
}

/// Something a doctor has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `qemu`, `firecracker`, `firecracker.` and a fault's name, or `kvm`.
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
    /// VMs run, but not as well as they could, or not all of them.
    Warning,
    /// No VM can run.
    Error,
}

impl Host {
    /// Looks. Blocks for some 20 ms, while programs say their versions.
    pub fn look() -> Self {
        Self {
            qemu: qemu::find(),
            firecracker: firecracker::find(),
            kvm: probe_kvm(),
            kvm_of_jails: crate::kvm::probe_kvm_of_jails(),
        }
    }

    /// Whether a Firecracker in a jail can run here.
    pub fn can_jail(&self) -> bool {
        self.kvm_of_jails == Kvm::Works
    }

    /// What a doctor says of it, where VMs may run in jails or not.
    pub fn findings(&self, jailed: bool) -> Vec<Finding> {
        if jailed && self.can_jail() {
            return self.findings_of_jails();
        }
        let mut findings = vec![self.qemu_finding(), self.firecracker_finding()];
        findings.extend(self.fault_findings());
        findings.push(self.kvm_finding());
        findings
    }

    /// QEMU then only adds a network, and KVM is the jail's.
    fn findings_of_jails(&self) -> Vec<Finding> {
        let qemu = match &self.qemu {
            Ok(_) => self.qemu_finding(),
            Err(missing) => finding(
                "qemu",
                Level::Ok,
                format!(
                    "{}: {}; it is needed for --network user only",
                    missing.program, missing.reason
                ),
                None,
            ),
        };
        let firecracker = finding(
            "firecracker",
            Level::Ok,
            "Firecracker runs VMs, in jails".into(),
            None,
        );
        let kvm = finding("kvm", Level::Ok, "KVM works for jails".into(), None);
        let mut findings = vec![qemu, firecracker, kvm];
        findings.extend(self.fault_findings());
        findings
    }

    /// Whether Firecracker runs some VMs here.
    fn has_firecracker(&self) -> bool {
        self.firecracker.is_ok() && self.kvm == Kvm::Works
    }

    fn qemu_finding(&self) -> Finding {
        match &self.qemu {
            Ok(found) if found.version >= qemu::OLDEST => finding(
                "qemu",
                Level::Ok,
                format!("QEMU {} at {}", found.version, found.path.display()),
                None,
            ),
            Ok(found) => finding(
                "qemu",
                Level::Warning,
                format!(
                    "QEMU {} at {} is older than {}, the oldest that banger is tested with",
                    found.version,
                    found.path.display(),
                    qemu::OLDEST
                ),
                Some("install a newer qemu-system-x86"),
            ),
            Err(missing) if self.has_firecracker() => finding(
                "qemu",
                Level::Warning,
                format!(
                    "{}: {}; only VMs without a network run, under Firecracker",
                    missing.program, missing.reason
                ),
                Some(&missing.fix),
            ),
            Err(missing) => finding(
                "qemu",
                Level::Error,
                format!("{}: {}", missing.program, missing.reason),
                Some(&missing.fix),
            ),
        }
    }

    fn firecracker_finding(&self) -> Finding {
        let subject = "firecracker";
        match (&self.firecracker, &self.kvm) {
            (Ok(found), Kvm::Works) => finding(
                subject,
                Level::Ok,
                format!(
                    "Firecracker {} at {} runs VMs that have --network none; for others, {NO_NETWORK}",
                    found.version,
                    found.path.display()
                ),
                None,
            ),
            (Ok(found), Kvm::Unusable { .. }) => finding(
                subject,
                Level::Ok,
                format!(
                    "Firecracker {} at {} is not used: it needs KVM",
                    found.version,
                    found.path.display()
                ),
                None,
            ),
            (Err(missing), Kvm::Works) => finding(
                subject,
                Level::Warning,
                format!("{}: {}; QEMU runs all VMs", missing.program, missing.reason),
                Some(&missing.fix),
            ),
            (Err(missing), Kvm::Unusable { .. }) => finding(
                subject,
                Level::Ok,
                format!("{}: {}; it would need KVM", missing.program, missing.reason),
                None,
            ),
        }
    }

    /// The known faults of a Firecracker that is used.
    fn fault_findings(&self) -> Vec<Finding> {
        let Ok(found) = &self.firecracker else {
            return Vec::new();
        };
        if !self.has_firecracker() && !self.can_jail() {
            return Vec::new();
        }
        firecracker::faults_of(found.version)
            .map(|fault| {
                finding(
                    &format!("firecracker.{}", fault.name.as_str()),
                    Level::Warning,
                    format!(
                        "Firecracker {}: {}; {}",
                        found.version, fault.what, fault.answer
                    ),
                    Some(fault.fix),
                )
            })
            .collect()
    }

    fn kvm_finding(&self) -> Finding {
        match &self.kvm {
            Kvm::Works => finding(
                "kvm",
                Level::Ok,
                "/dev/kvm opens and the CPU virtualises".into(),
                None,
            ),
            Kvm::Unusable { reason, fix } => finding(
                "kvm",
                Level::Warning,
                format!("{reason}, using emulation"),
                fix.as_deref(),
            ),
        }
    }
}

fn finding(subject: &str, level: Level, message: String, fix: Option<&str>) -> Finding {
    Finding {
        subject: subject.to_owned(),
        level,
        message,
        fix: fix.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Version;

    fn host(version: Option<Version>, kvm: Kvm) -> Host {
        Host {
            qemu: Err(Missing {
                program: "qemu-system-x86_64",
                reason: "it is not installed".into(),
                fix: "sudo apt-get install qemu-system-x86".into(),
            }),
            firecracker: match version {
                Some(version) => Ok(Found {
                    path: "/usr/local/bin/firecracker".into(),
                    version,
                }),
                None => Err(Missing {
                    program: "firecracker",
                    reason: "it is not installed".into(),
                    fix: "get it".into(),
                }),
            },
            kvm_of_jails: kvm.clone(),
            kvm,
        }
    }

    fn broken() -> Kvm {
        Kvm::Unusable {
            reason: "the CPU shows neither vmx nor svm".into(),
            fix: None,
        }
    }

    fn of<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
        let mut findings = findings.iter();
        findings.find(|finding| finding.subject == subject).unwrap()
    }

    #[test]
    fn findings_name_a_fix_for_what_is_missing() {
        let findings = host(None, broken()).findings(false);
        let qemu = of(&findings, "qemu");
        assert_eq!(qemu.level, Level::Error);
        assert!(qemu.fix.as_ref().unwrap().contains("qemu-system-x86"));
        let kvm = of(&findings, "kvm");
        assert_eq!(kvm.level, Level::Warning);
        assert!(kvm.message.ends_with("using emulation"));
        assert_eq!(of(&findings, "firecracker").level, Level::Ok, "no use here");

        let findings = host(None, Kvm::Works).findings(false);
        let firecracker = of(&findings, "firecracker");
        assert_eq!(firecracker.level, Level::Warning);
        assert_eq!(firecracker.fix.as_deref(), Some("get it"));
    }

    #[test]
    fn findings_tell_what_firecracker_is_good_for_and_its_faults() {
        let findings = host(Some(Version::new(1, 12, 1)), Kvm::Works).findings(false);
        assert_eq!(of(&findings, "qemu").level, Level::Warning);
        let firecracker = of(&findings, "firecracker");
        assert_eq!(firecracker.level, Level::Ok);
        assert!(firecracker.message.contains("--network none"));
        let jailer = of(&findings, "firecracker.jailer");
        assert_eq!(jailer.level, Level::Warning);
        assert!(jailer.message.contains("CVE-2026-1386"), "{jailer:?}");
        assert!(jailer.fix.as_ref().unwrap().contains("1.15.1"));
        let findings = host(Some(Version::new(1, 15, 1)), Kvm::Works).findings(false);
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}
