//! Whether KVM here can run ordinary guest kernels.
//!
//! That `/dev/kvm` opens proves little: hosts with a software KVM have the device, and
//! ordinary kernels hang on it. What proves more is the CPU's own flag.

use std::io;

/// What KVM is good for on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It runs ordinary kernels.
    Works,
    /// It does not.
    Unusable {
        /// Why, as a sentence without its full stop.
        reason: String,
        /// What the user can do, where anything can be done.
        fix: Option<String>,
    },
}

/// What helps where the CPU does not virtualise.
const NESTED: &str = "on a virtual machine, let its host offer nested virtualisation";

/// Looks at `/dev/kvm` and the CPU.
pub fn probe_kvm() -> Kvm {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(drop);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(&device, &cpuinfo, std::env::consts::ARCH)
}

/// Looks at KVM for a VMM that somebody else starts as root: our own rights to `/dev/kvm` do
/// not count, and what a service is not shown (the device, the CPU's flags) is no evidence.
pub(crate) fn probe_kvm_of_jails() -> Kvm {
    let device = std::fs::metadata("/sys/devices/virtual/misc/kvm").map(drop);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo");
    let arch = match cpuinfo {
        Ok(_) => std::env::consts::ARCH,
        // Hidden: only whether the kernel's module has started can be seen.
        Err(_) => "aarch64",
    };
    judge(&device, &cpuinfo.unwrap_or_default(), arch)
}

fn judge(device: &io::Result<()>, cpuinfo: &str, arch: &str) -> Kvm {
    let unusable = |reason: &str, fix: Option<&str>| Kvm::Unusable {
        reason: reason.to_owned(),
        fix: fix.map(str::to_owned),
    };
    let virtualises = arch == "aarch64" || has_virtualisation(cpuinfo);
    match device {
        Ok(()) if virtualises => Kvm::Works,
        Ok(()) => unusable(
            "KVM here cannot run ordinary kernels (the CPU shows neither vmx nor svm)",
            Some(NESTED),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound && virtualises => unusable(
            "/dev/kvm does not exist, though the CPU could virtualise",
            Some(
                "load the module: sudo modprobe kvm_intel (or kvm_amd); if that fails, switch virtualisation on in the firmware",
            ),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => unusable(
            "there is no /dev/kvm, and the CPU shows neither vmx nor svm",
            Some(NESTED),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && virtualises => unusable(
            "/dev/kvm may not be opened by this user",
            Some("sudo usermod -aG kvm \"$USER\", then log in anew"),
        ),
        Err(error) => unusable(
            &format!("/dev/kvm cannot be opened ({error})"),
            Some(NESTED),
        ),
    }
}

/// Whether the first CPU's flags name vmx or svm.
fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim_end() == "flags").then_some(value)
        })
        .is_some_and(|flags| {
            flags
                .split_ascii_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = "processor\t: 0\nmodel name\t: X\nvmx flags\t: vnmi preemption_timer\nflags\t\t: fpu vme sse vmx est\n";
    const SOFTWARE: &str = "processor\t: 0\nmodel name\t: svm vmx\nvmx flags\t: vmx\nflags\t\t: fpu vme svm_lock hypervisor\n";

    #[test]
    fn kvm_probe_refuses_software_kvm_without_vmx_or_svm() {
        let Kvm::Unusable { reason, fix } = judge(&Ok(()), SOFTWARE, "x86_64") else {
            panic!("taken for usable");
        };
        assert_eq!(
            reason,
            "KVM here cannot run ordinary kernels (the CPU shows neither vmx nor svm)"
        );
        assert_eq!(fix.as_deref(), Some(NESTED));
        assert_ne!(judge(&Ok(()), "", "x86_64"), Kvm::Works);
    }

    #[test]
    fn kvm_probe_accepts_vmx_svm_and_arm() {
        assert_eq!(judge(&Ok(()), INTEL, "x86_64"), Kvm::Works);
        assert_eq!(
            judge(&Ok(()), &INTEL.replace("sse vmx", "sse svm"), "x86_64"),
            Kvm::Works
        );
        assert_eq!(
            judge(&Ok(()), "Features\t: fp asimd\n", "aarch64"),
            Kvm::Works
        );
    }

    #[test]
    fn kvm_probe_tells_a_missing_device_from_a_forbidden_one() {
        let fix = |kind: io::ErrorKind| match judge(&Err(kind.into()), INTEL, "x86_64") {
            Kvm::Works => panic!("taken for usable"),
            Kvm::Unusable { fix, .. } => fix.unwrap(),
        };
        assert!(fix(io::ErrorKind::NotFound).contains("modprobe"));
        assert!(fix(io::ErrorKind::PermissionDenied).contains("usermod"));
    }
}
