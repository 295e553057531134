//! QEMU's command line: a pure function of the specification.
//!
//! What holds a path is passed as JSON or as an argument of its own, so no character in a
//! path can end an option and begin another.

use std::path::Path;

use serde_json::json;

use super::PORT_NAME;
use crate::{Accel, Cache, Drive, MachineSpec, NetworkMode};

/// The inherited sockets, by the descriptors they get in QEMU and their names.
pub(super) const SOCKETS: [(i32, &str); 3] = [(3, "agent"), (4, "qmp"), (5, "console")];

/// Kernel arguments for every machine. `panic=-1` (at once) with QEMU's `-no-reboot` makes a panic end
/// the machine; the crypto self-tests would take a tenth of an emulated boot.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 oops=panic cryptomgr.notests \
                       random.trust_cpu=on net.ifnames=0";

/// More of them for emulation: nothing is speculated there, the emulated clocks are good but
/// slow to check, and patching the lock prefixes out of the kernel throws translated code away.
const CMDLINE_TCG: &str = " mitigations=off tsc=reliable no_timer_check noreplace-smp";

/// The emulated CPU: everything QEMU can do but what is slow to emulate or to patch in.
const CPU_TCG: &str = "max,la57=off,smap=off,smep=off,erms=off,fsrm=off,pku=off";

/// The translation buffer's limit in MiB. Only what is used of it takes memory; a boot fits
/// into 64.
const TB_SIZE: u32 = 256;

/// The arguments after the program's name.
pub(super) fn build(accel: Accel, firmware: Option<&Path>, spec: &MachineSpec) -> Vec<String> {
    let mut args = words(&["-nodefaults", "-no-user-config", "-display", "none"]);
    args.extend(words(&["-no-reboot", "-sandbox"]));
    args.push("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    args.extend(words(&["-machine", "q35,usb=off,smm=off,vmport=off"]));
    match accel {
        Accel::Kvm => args.extend(words(&["-accel", "kvm", "-cpu", "host"])),
        Accel::Tcg => {
            args.push("-accel".into());
            args.push(format!("tcg,thread=multi,tb-size={TB_SIZE}"));
            args.extend(words(&["-cpu", CPU_TCG]));
        }
    }
    if let Some(firmware) = firmware {
        args.extend(["-bios".into(), text(firmware)]);
    }
    args.extend(["-smp".into(), spec.cpus.to_string()]);
    args.extend(["-m".into(), format!("{}M", spec.mem_mib)]);
    args.extend(["-kernel".into(), text(&spec.kernel)]);
    args.extend(["-initrd".into(), text(&spec.initrd)]);
    args.extend(["-append".into(), cmdline(accel, &spec.cmdline_extra)]);
    for (fd, name) in SOCKETS {
        args.push("-chardev".into());
        args.push(format!("socket,id={name},fd={fd},server=on,wait=off"));
    }
    args.extend(words(&["-serial", "chardev:console"]));
    args.extend(words(&["-mon", "chardev=qmp,mode=control"]));
    for (index, drive) in spec.drives.iter().enumerate() {
        args.extend(disk(index, drive));
    }
    args.extend(words(&["-device", "virtio-rng-pci"]));
    args.extend(words(&["-device", "virtio-serial-pci,max_ports=2"]));
    args.push("-device".into());
    args.push(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
    if spec.network == NetworkMode::User {
        // IPv4 only: offered IPv6 leads nowhere on most hosts and costs guests a time-out.
        args.extend(words(&["-netdev", "user,id=net0,ipv6=off"]));
        args.extend(words(&["-device", "virtio-net-pci,netdev=net0,romfile="]));
    }
    args
}

fn cmdline(accel: Accel, extra: &str) -> String {
    let mut line = CMDLINE.to_owned();
    if accel == Accel::Tcg {
        line.push_str(CMDLINE_TCG);
    }
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    line
}

/// One disk: a raw image, locked by its use (shared if read-only, exclusive if not).
fn disk(index: usize, drive: &Drive) -> Vec<String> {
    let id = format!("disk{index}");
    let blockdev = json!({
        "driver": "raw",
        "node-name": id,
        "read-only": drive.read_only,
        "discard": "unmap",
        "cache": { "direct": false, "no-flush": drive.cache == Cache::Unsafe },
        "file": {
            "driver": "file",
            "filename": text(&drive.path),
            "locking": "on",
        },
    });
    let device = json!({
        "driver": "virtio-blk-pci",
        "id": format!("vd{index}"),
        "drive": id,
        "write-cache": "on",
        // A full host disk is the guest's I/O error; QEMU's own choice would be to pause for ever.
        "werror": "report",
        "rerror": "report",
    });
    vec![
        "-blockdev".into(),
        blockdev.to_string(),
        "-device".into(),
        device.to_string(),
    ]
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Paths were checked to be UTF-8.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    path: "/a,file.locking=off,\"b".into(),
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

    fn after<'a>(args: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = args.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn drive_paths_cannot_add_options() {
        let args = build(Accel::Tcg, None, &spec());
        let drives: Vec<serde_json::Value> = after(&args, "-blockdev")
            .into_iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        assert_eq!(drives[0]["file"]["filename"], "/a,file.locking=off,\"b");
        assert_eq!(drives[0]["file"]["locking"], "on");
        assert_eq!(drives[0]["read-only"], true);
        assert_eq!(drives[0]["cache"]["no-flush"], true);
        assert_eq!(drives[1]["read-only"], false);
        assert_eq!(drives[1]["cache"]["no-flush"], false);
    }

    #[test]
    fn a_full_host_disk_does_not_pause_the_guest() {
        for device in after(&build(Accel::Tcg, None, &spec()), "-device") {
            if device.contains("virtio-blk-pci") {
                let device: serde_json::Value = serde_json::from_str(device).unwrap();
                assert_eq!(device["werror"], "report");
            }
        }
    }

    #[test]
    fn emulation_and_kvm_differ_where_they_must() {
        let tcg = build(Accel::Tcg, None, &spec());
        let kvm = build(Accel::Kvm, Some(Path::new("/q.rom")), &spec());
        assert_eq!(after(&kvm, "-cpu"), ["host"]);
        assert_eq!(after(&kvm, "-bios"), ["/q.rom"]);
        assert!(after(&tcg, "-bios").is_empty());
        assert!(after(&tcg, "-append")[0].contains("mitigations=off"));
        assert!(!after(&kvm, "-append")[0].contains("mitigations=off"));
        assert!(after(&tcg, "-append")[0].ends_with(" quiet=no"));
        assert!(after(&tcg, "-sandbox")[0].contains("spawn=deny"));
    }

    #[test]
    fn without_a_network_there_is_no_card_and_with_one_nothing_is_forwarded_in() {
        let mut spec = spec();
        assert!(after(&build(Accel::Tcg, None, &spec), "-netdev").is_empty());
        spec.network = NetworkMode::User;
        let args = build(Accel::Tcg, None, &spec);
        assert_eq!(after(&args, "-netdev"), ["user,id=net0,ipv6=off"]);
        assert!(!args.iter().any(|arg| arg.contains("hostfwd")));
    }
}
