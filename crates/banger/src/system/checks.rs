//! Whether this host can be installed on. Each refusal says what to do about it.

use super::host::Host;
use super::layout::{MODULE_NAMES, UNITS, VM_UIDS};
use super::owner::OwnerFacts;
use super::programs::{self, Program};
use super::units::{MARK, Unit};
use banger_api::{Check, CheckStatus, Install};
use std::fs::OpenOptions;

/// The oldest systemd that has all directives of the units.
const OLDEST_SYSTEMD: u32 = 248;

/// Looks at everything that must be so before anything is changed.
pub(crate) fn examine(
    host: &Host,
    owner: &OwnerFacts,
    found: &[Program],
    missing: &[&'static str],
    there: Option<&Install>,
) -> Vec<Check> {
    let mut checks = vec![systemd(host), cgroups(host), kvm(host)];
    checks.extend(MODULE_NAMES.map(|(name, shows)| module(host, name, shows)));
    checks.push(nft(host));
    checks.push(resolved(host));
    checks.extend(missing.iter().map(|name| missing_program(name)));
    checks.extend(found.iter().filter_map(|program| faults(program, owner)));
    checks.push(uids(host));
    checks.extend(foreign_units(host));
    checks.extend(there.and_then(|install| other_owner(install, owner)));
    checks
}

fn systemd(host: &Host) -> Check {
    if !host.at("/run/systemd/system").is_dir() {
        return failed(
            "systemd",
            "systemd does not run here (it is not PID 1)",
            "without systemd, banger runs rootless: leave the installation out",
        );
    }
    let said = host.run("systemctl", &["--version"]).unwrap_or_default();
    let version = said
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u32>().ok());
    match version {
        Some(version) if version < OLDEST_SYSTEMD => failed(
            "systemd",
            &format!(
                "systemd {version} is older than {OLDEST_SYSTEMD}: it would ignore parts of the sandbox"
            ),
            "use a newer release of the distribution",
        ),
        Some(version) => ok("systemd", &format!("systemd {version}")),
        None => ok("systemd", "systemd, of an unknown version"),
    }
}

fn cgroups(host: &Host) -> Check {
    if host.at("/sys/fs/cgroup/cgroup.controllers").exists() {
        return ok("cgroup", "cgroups of version 2");
    }
    failed(
        "cgroup",
        "the host does not use cgroups of version 2 alone",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn kvm(host: &Host) -> Check {
    let cpu = host.text("/proc/cpuinfo").unwrap_or_default();
    let virtualises = !cfg!(target_arch = "x86_64")
        || cpu
            .split_whitespace()
            .any(|word| word == "vmx" || word == "svm");
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(host.at("/dev/kvm"));
    match opened {
        Ok(_) if virtualises => ok("kvm", "/dev/kvm opens and the CPU virtualises"),
        Ok(_) => failed(
            "kvm",
            "/dev/kvm opens, but the CPU shows neither vmx nor svm: ordinary kernels do not run on it",
            "without KVM, banger runs rootless, by emulation: leave the installation out",
        ),
        Err(error) => failed(
            "kvm",
            &format!("open /dev/kvm: {error}"),
            "switch virtualisation on in the firmware (or nested virtualisation in the host of this \
             VM), then: sudo modprobe kvm_intel || sudo modprobe kvm_amd",
        ),
    }
}

fn module(host: &Host, name: &str, shows: &str) -> Check {
    let check = format!("module.{name}");
    if host.at(shows).exists() || host.succeeds("modprobe", &["-n", "-q", name]) {
        return ok(&check, "there");
    }
    failed(
        &check,
        &format!("the kernel has no module {name}"),
        "install the kernel's modules (Debian: linux-image-amd64, not -cloud), then reboot",
    )
}

fn nft(host: &Host) -> Check {
    if ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"]
        .iter()
        .any(|path| host.at(path).is_file())
    {
        return ok("nft", "nftables is installed");
    }
    failed(
        "nft",
        "nft is missing: VMs cannot be kept apart without it",
        "sudo apt-get install nftables",
    )
}

fn resolved(host: &Host) -> Check {
    if host.at("/run/systemd/resolve").is_dir() {
        return ok("resolved", "systemd-resolved runs: NAME.vm will be known");
    }
    Check {
        status: CheckStatus::Warning,
        ..failed(
            "resolved",
            "systemd-resolved does not run: NAME.vm will not be known to other programs",
            "sudo apt-get install systemd-resolved",
        )
    }
}

fn missing_program(name: &str) -> Check {
    let fix = match name {
        "firecracker" | "jailer" => {
            "get both from https://github.com/firecracker-microvm/firecracker/releases, then: \
             sudo banger system install --firecracker DIRECTORY"
        }
        _ => "put banger's programs side by side and run the one there: cargo xtask build does",
    };
    failed(
        &format!("program.{name}"),
        &format!("{name} was not found"),
        fix,
    )
}

/// What is known to be wrong with a program. The helper does not rely on the jailer there, but
/// whoever installs it should know.
fn faults(program: &Program, owner: &OwnerFacts) -> Option<Check> {
    if program.name != "jailer" {
        return None;
    }
    let check = "program.jailer";
    let shown = program.from.display();
    let Some(version) = programs::version(&program.from, owner) else {
        return Some(failed(
            check,
            &format!("{shown} does not say its version: it is no jailer, or not for this machine"),
            "sudo banger system install --firecracker DIRECTORY, with a release's programs",
        ));
    };
    let (major, minor, patch) = version;
    if programs::is_faulty_jailer(version) {
        return Some(Check {
            status: CheckStatus::Warning,
            ..failed(
                check,
                &format!(
                    "jailer {major}.{minor}.{patch} follows links in a jail (CVE-2026-1386); \
                     banger makes each jail anew, so that there are none"
                ),
                "install Firecracker 1.14.4, 1.15.1 or later, then again: sudo banger system install",
            )
        });
    }
    Some(ok(check, &format!("jailer {major}.{minor}.{patch}")))
}

/// The uids of VMs must be nobody's, not even a container's.
fn uids(host: &Host) -> Check {
    let (first, count) = VM_UIDS;
    let last = first + (count - 1);
    for (file, start_field, count_field) in [
        ("/etc/passwd", 2, None),
        ("/etc/group", 2, None),
        ("/etc/subuid", 1, Some(2)),
        ("/etc/subgid", 1, Some(2)),
    ] {
        for line in host.text(file).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
            let Some(start) = number(start_field) else {
                continue;
            };
            let length = count_field.map_or(Some(1), number).unwrap_or(1);
            if start <= last.into() && start.saturating_add(length) > first.into() {
                let who = fields.first().copied().unwrap_or_default();
                return failed(
                    "uids",
                    &format!("{file} gives {who:?} uids of {first} to {last}, which VMs get"),
                    &format!("give {who:?} other numbers in {file}"),
                );
            }
        }
    }
    ok("uids", &format!("{first} to {last} are nobody's"))
}

/// Unit files with our names that we did not write.
fn foreign_units(host: &Host) -> Vec<Check> {
    Unit::ALL
        .into_iter()
        .filter(|unit| {
            host.text(unit.path())
                .is_some_and(|text| !text.starts_with(MARK))
        })
        .map(|unit| {
            failed(
                &format!("unit.{}", unit.file()),
                &format!("{} is there, and banger did not write it", unit.path()),
                &format!("move it away from {UNITS}"),
            )
        })
        .collect()
}

fn other_owner(install: &Install, owner: &OwnerFacts) -> Option<Check> {
    let theirs = &install.owner;
    (theirs.uid != owner.uid).then(|| {
        failed(
            "owner",
            &format!("it is installed for {} (uid {})", theirs.name, theirs.uid),
            "one installation serves one user: sudo banger system uninstall --purge, then install",
        )
    })
}

fn ok(name: &str, message: &str) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Ok,
        message: message.to_owned(),
        fix: None,
    }
}

fn failed(name: &str, message: &str, fix: &str) -> Check {
    Check {
        status: CheckStatus::Failed,
        fix: Some(fix.to_owned()),
        ..ok(name, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake;
    use std::path::Path;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn uids_of_others_are_refused_also_in_the_middle_of_a_range() {
        for (file, line, is_taken) in [
            ("etc/passwd", "x:x:1900000000:1::/:/bin/sh", true),
            ("etc/passwd", "x:x:1900004095:1::/:/bin/sh", true),
            ("etc/passwd", "x:x:1900004096:1::/:/bin/sh", false),
            ("etc/passwd", "x:x:1899999999:1::/:/bin/sh", false),
            ("etc/group", "x:x:1900000001:", true),
            ("etc/subuid", "dev:1899934465:65536", true),
            ("etc/subuid", "dev:1899934464:65536", false),
            ("etc/subgid", "dev:100000:4294967295", true),
            ("etc/subuid", "dev:100000:65536", false),
            ("etc/subuid", "nonsense", false),
        ] {
            let temp = tempfile::tempdir().unwrap();
            put(temp.path(), file, line);
            let (host, _) = fake::host(temp.path());
            assert_eq!(
                uids(&host).status == CheckStatus::Failed,
                is_taken,
                "{line}"
            );
        }
    }

    #[test]
    fn an_empty_host_is_refused_with_a_fix_each() {
        let temp = tempfile::tempdir().unwrap();
        put(
            temp.path(),
            "etc/systemd/system/bangerd.service",
            "[Unit]\n",
        );
        let (host, told) = fake::host(temp.path());
        *told.fails.borrow_mut() = Some("modprobe".into());
        let owner = OwnerFacts {
            name: "dev".into(),
            uid: 1000,
            home: "/home/dev".into(),
        };
        let checks = examine(&host, &owner, &[], &["jailer", "bangerd"], None);
        let bad: Vec<_> = checks
            .iter()
            .filter(|check| check.status == CheckStatus::Failed)
            .map(|check| check.name.as_str())
            .collect();
        assert_eq!(
            bad,
            [
                "systemd",
                "cgroup",
                "kvm",
                "module.tun",
                "module.loop",
                "module.dm_mod",
                "module.dm_snapshot",
                "module.bridge",
                "nft",
                "program.jailer",
                "program.bangerd",
                "unit.bangerd.service",
            ]
        );
        assert!(
            checks
                .iter()
                .all(|check| check.status == CheckStatus::Ok || check.fix.is_some())
        );
    }
}
