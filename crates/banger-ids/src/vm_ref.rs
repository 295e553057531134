//! One start of a VM, and the names of everything that is made for it as root.

use crate::VmId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A VM and how often it was started: what one start made is never taken for another's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmRef {
    /// The VM.
    pub id: VmId,
    /// Which start of it this is, from 1.
    pub generation: u32,
}

impl VmRef {
    /// Its tap: `tap-` and the id's digits; 12 of the 15 bytes that a link's name can have.
    pub fn tap(&self) -> String {
        format!("tap-{}", self.digits())
    }

    /// Its device-mapper device.
    pub fn dm_name(&self) -> String {
        format!("fc-rootfs-{}", self.digits())
    }

    /// The mark on the device-mapper device and, behind `banger:`, on the tap.
    pub fn mark(&self) -> String {
        format!("banger-{self}")
    }

    /// Its systemd scope.
    pub fn scope(&self) -> String {
        format!("banger-vm-{}.scope", self.digits())
    }

    /// Its jail's directory, which is also the jailer's `--id`.
    pub fn jail(&self) -> &str {
        self.id.as_str()
    }

    fn digits(&self) -> &str {
        self.id.as_str().trim_start_matches("vm-")
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.id, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_derived_and_fit() {
        let vm = VmRef {
            id: VmId::from_bits(0x00c0_ffee),
            generation: 3,
        };
        assert_eq!(vm.tap(), "tap-00c0ffee");
        assert!(vm.tap().len() <= 15);
        assert_eq!(vm.dm_name(), "fc-rootfs-00c0ffee");
        assert_eq!(vm.mark(), "banger-vm-00c0ffee-3");
        assert_eq!(vm.scope(), "banger-vm-00c0ffee.scope");
        assert_eq!(vm.jail(), "vm-00c0ffee");
    }

    #[test]
    fn vm_ref_refuses_what_is_not_exactly_one() {
        let parse = serde_json::from_str::<VmRef>;
        assert!(parse(r#"{"id":"vm-00c0ffee","generation":1}"#).is_ok());
        for bad in [
            r#"{"id":"vm-00c0ffee"}"#,
            r#"{"id":"vm-00c0ffee","generation":-1}"#,
            r#"{"id":"vm-00c0ffee","generation":1e0}"#,
            r#"{"id":"vm-00c0ffee","generation":"1"}"#,
            r#"{"id":"vm-00c0ffee","generation":4294967296}"#,
            r#"{"id":"vm-00c0ffee","generation":1,"pid":1}"#,
            r#"{"id":"vm-00c0ffee","id":"vm-00c0ffee","generation":1}"#,
            r#"{"id":"../c0ffee","generation":1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
