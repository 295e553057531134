//! The known faults of Firecracker's releases, by exact version.

use crate::program::Version;

/// A fault of some releases.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// One word for it.
    pub(crate) name: FaultName,
    /// The releases that have it: first and last of each run of them.
    releases: &'static [(Version, Version)],
    /// What goes wrong, as a sentence without its full stop.
    pub(crate) what: &'static str,
    /// What banger does about it.
    pub(crate) answer: &'static str,
    /// What the user can do.
    pub(crate) fix: &'static str,
}

/// A fault's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultName {
    /// The jailer follows a link in the jail.
    Jailer,
    /// Diff snapshots are corrupt.
    DiffSnapshot,
    /// Connections to the guest hang after a pause.
    VsockPause,
}

impl FaultName {
    /// As a part of a finding's subject.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Jailer => "jailer",
            Self::DiffSnapshot => "diff_snapshot",
            Self::VsockPause => "vsock_pause",
        }
    }
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: FaultName::Jailer,
        releases: &[
            (Version::new(0, 0, 0), Version::new(1, 13, 1)),
            (Version::new(1, 14, 0), Version::new(1, 14, 0)),
        ],
        what: "its jailer follows a symbolic link in the jail (CVE-2026-1386)",
        answer: "each jail is made anew and is root's alone, so nobody can put one there",
        fix: "install Firecracker 1.14.4, 1.15.1 or later",
    },
    Fault {
        name: FaultName::DiffSnapshot,
        releases: &[(Version::new(1, 14, 0), Version::new(1, 14, 1))],
        what: "it corrupts differential snapshots",
        answer: "none are made",
        fix: "install Firecracker 1.14.4, 1.15.1 or later",
    },
    Fault {
        name: FaultName::VsockPause,
        releases: &[(Version::new(1, 16, 0), Version::new(1, 16, 1))],
        what: "connections to the guest hang after a pause",
        answer: "VMs are not paused",
        fix: "install a Firecracker other than 1.16.0 and 1.16.1",
    },
];

/// The known faults of this release.
pub(crate) fn of(version: Version) -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().filter(move |fault| {
        let mut releases = fault.releases.iter();
        releases.any(|(first, last)| (*first..=*last).contains(&version))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(major: u16, minor: u16, micro: u16) -> Vec<FaultName> {
        of(Version::new(major, minor, micro))
            .map(|fault| fault.name)
            .collect()
    }

    #[test]
    fn faults_are_told_by_exact_version() {
        use FaultName::{DiffSnapshot, Jailer, VsockPause};
        assert_eq!(names(1, 12, 1), [Jailer]);
        assert_eq!(names(1, 13, 1), [Jailer]);
        assert_eq!(names(1, 13, 2), []);
        assert_eq!(names(1, 14, 0), [Jailer, DiffSnapshot]);
        assert_eq!(names(1, 14, 1), [DiffSnapshot]);
        assert_eq!(names(1, 14, 4), []);
        assert_eq!(names(1, 15, 1), []);
        assert_eq!(names(1, 16, 0), [VsockPause]);
        assert_eq!(names(1, 16, 1), [VsockPause]);
        assert_eq!(names(1, 16, 2), []);
    }
}
