//! Firecracker's configuration file: a pure function of the specification.

use serde_json::{Value, json};

use crate::{Cache, EngineError, MachineSpec, NetworkMode};

/// The most virtual CPUs that Firecracker gives.
const MAX_CPUS: u32 = 32;

/// The guest's address on its vsock. Any will do: the host's end is a socket of its own.
const GUEST_CID: u32 = 3;

/// Kernel arguments for every machine. A restart is the only end that Firecracker has, so a
/// panic becomes one, at once (`panic=-1`), by the keyboard controller (`reboot=k`). That controller has
/// a keyboard for Ctrl-Alt-Del and nothing else, and need not be probed for more. The crypto
/// self-tests would take half of the boot.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 oops=panic pci=off cryptomgr.notests \
                       random.trust_cpu=on net.ifnames=0 i8042.noaux i8042.nomux i8042.dumbkbd";

/// The machine as Firecracker wants it told; with it, the machine runs at once. `vsock` is where
/// it makes the vsock's socket. With `huge_pages` its memory is of 2 MiB pages, which must be there.
pub(super) fn machine(
    spec: &MachineSpec,
    vsock: &str,
    huge_pages: bool,
) -> Result<Value, EngineError> {
    if spec.cpus > MAX_CPUS {
        return Err(EngineError::Spec(format!(
            "{} CPUs are more than Firecracker's {MAX_CPUS}",
            spec.cpus
        )));
    }
    let card = match (spec.network, &spec.tap) {
        (NetworkMode::None, None) => None,
        (NetworkMode::Nat, Some(tap)) => Some(json!({
            "iface_id": "eth0",
            "guest_mac": tap.mac,
            "host_dev_name": tap.name,
        })),
        (NetworkMode::User, _) => return Err(EngineError::Spec(super::NO_USER_NETWORK.into())),
        (NetworkMode::None | NetworkMode::Nat, _) => {
            return Err(EngineError::Spec(
                "a network by NAT needs a tap, and no other does".into(),
            ));
        }
    };
    let drives: Vec<Value> = spec
        .drives
        .iter()
        .enumerate()
        .map(|(index, drive)| {
            json!({
                "drive_id": format!("disk{index}"),
                "path_on_host": drive.path,
                "is_root_device": false,
                "is_read_only": drive.read_only,
                "cache_type": match drive.cache {
                    Cache::Unsafe => "Unsafe",
                    Cache::Writeback => "Writeback",
                },
            })
        })
        .collect();
    let mut cmdline = CMDLINE.to_owned();
    if !spec.cmdline_extra.is_empty() {
        cmdline.push(' ');
        cmdline.push_str(&spec.cmdline_extra);
    }
    let mut machine = json!({
        "boot-source": {
            "kernel_image_path": spec.kernel,
            "initrd_path": spec.initrd,
            "boot_args": cmdline,
        },
        "machine-config": {
            "vcpu_count": spec.cpus,
            "mem_size_mib": spec.mem_mib,
            "huge_pages": if huge_pages { "2M" } else { "None" },
        },
        "drives": drives,
        "vsock": { "guest_cid": GUEST_CID, "uds_path": vsock },
        "entropy": {},
    });
    if let Some(card) = card {
        machine["network-interfaces"] = json!([card]);
    }
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Drive, Tap};

    fn spec() -> MachineSpec {
        MachineSpec {
            cpus: 2,
            mem_mib: 512,
            huge_pages: false,
            jail_root: None,
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline_extra: "quiet=no".into(),
            drives: vec![
                Drive {
                    path: "/a\",\"is_read_only\":false,\"x\":\"".into(),
                    read_only: true,
                    cache: Cache::Unsafe,
                },
                Drive {
                    path: "/c".into(),
                    read_only: false,
                    cache: Cache::Writeback,
                },
            ],
            network: NetworkMode::None,
            tap: None,
        }
    }

    #[test]
    fn machine_has_what_was_asked_and_no_more() {
        let text = machine(&spec(), "vsock.sock", false).unwrap().to_string();
        let machine: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            machine["machine-config"],
            json!({"vcpu_count": 2, "mem_size_mib": 512, "huge_pages": "None"})
        );
        let huge = super::machine(&spec(), "vsock.sock", true).unwrap();
        assert_eq!(huge["machine-config"]["huge_pages"], "2M");
        let drives = machine["drives"].as_array().unwrap();
        assert_eq!(
            drives[0]["path_on_host"],
            "/a\",\"is_read_only\":false,\"x\":\""
        );
        assert_eq!(drives[0]["is_read_only"], true);
        assert_eq!(drives[0]["cache_type"], "Unsafe");
        assert_eq!(drives[1]["is_read_only"], false);
        assert_eq!(
            drives[1]["cache_type"], "Writeback",
            "a flush reaches the disk"
        );
        assert!(drives.iter().all(|drive| drive["is_root_device"] == false));
        let boot_args = machine["boot-source"]["boot_args"].as_str().unwrap();
        assert!(boot_args.ends_with(" quiet=no"));
        assert!(!boot_args.contains("nopnp"), "it breaks Ctrl-Alt-Del");
        assert!(!boot_args.contains("acpi=off"), "devices are found by it");
        assert_eq!(machine["vsock"]["uds_path"], "vsock.sock");
        assert!(machine.get("network-interfaces").is_none());
    }

    #[test]
    fn machine_has_the_card_of_its_tap() {
        let tap = Tap {
            name: "tap-1".into(),
            mac: "06:fc:ac:1e:00:02".into(),
        };
        let with_tap = MachineSpec {
            network: NetworkMode::Nat,
            tap: Some(tap),
            ..spec()
        };
        let machine = machine(&with_tap, "v", false).unwrap();
        assert_eq!(
            machine["network-interfaces"],
            json!([{"iface_id": "eth0", "guest_mac": "06:fc:ac:1e:00:02", "host_dev_name": "tap-1"}])
        );
    }

    #[test]
    fn machine_refuses_a_network_and_too_many_cpus() {
        let with_network = MachineSpec {
            network: NetworkMode::User,
            ..spec()
        };
        let error = machine(&with_network, "v", false).unwrap_err().to_string();
        assert!(error.contains("network"), "{error}");
        let without_tap = MachineSpec {
            network: NetworkMode::Nat,
            ..spec()
        };
        assert!(machine(&without_tap, "v", false).is_err());
        let wide = MachineSpec { cpus: 33, ..spec() };
        assert!(machine(&wide, "v", false).is_err());
    }
}
