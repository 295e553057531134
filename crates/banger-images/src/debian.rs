//! Builds a Debian image for developers: mmdebstrap makes the tree, we make the file system of it.
//!
//! Two builds from one state of the archive are the same bit for bit: all times come from the
//! archive's release date, and what a build makes at random or takes from this host (host keys,
//! machine id, host name, resolver, logs, caches) is left out.

use crate::apt::{Lists, PrivateApt, is_package_name};
use crate::child::{Job, Line, find_tool};
use crate::files::private_file;
use crate::progress::{NoProgress, ProgressSink, Step};
use crate::scratch::Scratch;
use crate::source::DebianSource;
use crate::tar_reader::Kind;
use crate::tree_scan::Rule;
use crate::{Image, ImagesError, Store, sparse};
use banger_names::Tag;
use rustix::fs::StatVfsMountFlags;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the image has beside Debian's minimal base: enough to work in it over ssh, and to boot its
/// own systemd.
pub const DEFAULT_PACKAGES: [&str; 16] = [
    "ca-certificates",
    "curl",
    "dbus",
    "git",
    "iproute2",
    "kmod",
    "less",
    "make",
    "netbase",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tmux",
    "udev",
];

/// Room that a build needs: the tree, and its archive.
const TREE_BYTES: u64 = 2 << 30;
/// Stages that mmdebstrap announces, and how it begins to say so.
const STAGES: [(&str, &str); 7] = [
    ("running apt-get update", "updating package lists"),
    ("downloading packages", "downloading packages"),
    ("extracting archives", "unpacking the base"),
    ("installing essential", "installing the base"),
    ("installing remaining", "installing packages"),
    ("cleaning package lists", "cleaning up"),
    ("creating tarball", "packing"),
];

/// What to put into an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Packages beside [`DEFAULT_PACKAGES`].
    pub packages: Vec<String>,
}

impl Store {
    /// Builds a Debian image. As root it works as root does; an ordinary user needs user namespaces
    /// and subordinate ids (package `uidmap`).
    pub fn image_build_debian(
        &self,
        tag: &Tag,
        source: &DebianSource,
        options: &BuildOptions,
        progress: &dyn ProgressSink,
    ) -> Result<Image, ImagesError> {
        if let Some(bad) = options.packages.iter().find(|name| !is_package_name(name)) {
            return Err(ImagesError::refused(
                bad.clone(),
                "it is not the name of a package",
            ));
        }
        find_tool("mmdebstrap", "mmdebstrap")?;
        let mode = Mode::choose()?;
        self.check_space(TREE_BYTES)?;
        let mut scratch = self.scratch()?;
        let apt = PrivateApt::create(scratch.join("apt"), source)?;
        apt.update(Lists::Releases, progress)?;
        let epoch = apt.newest_release()?;
        let archive_path = scratch.join("archive.tar");
        let archive = private_file(&archive_path)?;
        let work = work_directory(&mut scratch, mode)?;
        let job = Job {
            what: "build the image's tree",
            program: mode.program(),
            package: "mmdebstrap",
            args: arguments(mode, source, options, &apt.sources()),
            env: vec![
                ("TMPDIR", work.into()),
                ("SOURCE_DATE_EPOCH", epoch.to_string().into()),
            ],
            home: scratch.path(),
            directory: PathBuf::from("/"),
            grace: Duration::from_secs(20),
        };
        let mut step = Step::begin(progress, "build image", "starting mmdebstrap", None);
        let output = archive
            .try_clone()
            .map_err(ImagesError::io("open", &archive_path))?;
        job.run(Some(output), progress, &mut |line| {
            if let Line::Stderr(text) = line {
                report(text, &mut step);
            }
        })?;
        self.build_from_tar(&archive, "mmdebstrap's archive", rule, &scratch, progress)?;
        self.commit_image(&scratch, tag, source.describe(), progress)
    }
}

/// How mmdebstrap becomes root in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is root, in mount and process namespaces of its own: whatever happens to it, no mount stays.
    Namespaced,
    /// It is root where namespaces are forbidden; it cannot mount there either.
    Root,
    /// It is root in a user namespace.
    Unshare,
}

/// What runs a command in namespaces that end with it.
const UNSHARE: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

impl Mode {
    fn choose() -> Result<Self, ImagesError> {
        if !rustix::process::geteuid().is_root() {
            return check_user_namespaces().map(|()| Self::Unshare);
        }
        let root = Path::new("/");
        let probe = Job {
            what: "try namespaces",
            program: "unshare",
            package: "util-linux",
            args: UNSHARE
                .iter()
                .chain(&["true"])
                .map(OsString::from)
                .collect(),
            env: Vec::new(),
            home: root,
            directory: root.to_owned(),
            grace: Duration::from_secs(1),
        };
        Ok(match probe.run(None, &NoProgress, &mut |_| {}) {
            Ok(()) => Self::Namespaced,
            Err(_) => Self::Root,
        })
    }

    fn program(self) -> &'static str {
        match self {
            Self::Namespaced => "unshare",
            Self::Root | Self::Unshare => "mmdebstrap",
        }
    }
}

/// Fails, with what to do, where an ordinary user cannot be root of a namespace with several users.
fn check_user_namespaces() -> Result<(), ImagesError> {
    find_tool("newuidmap", "uidmap")?;
    let refuse = |reason: String, fix: String| {
        Err(ImagesError::Unsupported {
            what: "build an image as an ordinary user",
            reason,
            fix,
        })
    };
    for (path, off, fix) in [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "sudo sysctl user.max_user_namespaces=15000",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == off) {
            return refuse(
                format!("user namespaces are switched off ({path} is {off})"),
                fix.into(),
            );
        }
    }
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .map_or_else(|| uid.clone(), |fields| fields[0].to_owned());
    for path in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let has_range = text.lines().any(|line| {
            let mut fields = line.split(':');
            let owner = fields.next().unwrap_or_default();
            let count = fields.nth(1).and_then(|count| count.parse::<u64>().ok());
            (owner == user || owner == uid) && count.is_some_and(|count| count >= 65_536)
        });
        if !has_range {
            return refuse(
                format!("{path} gives {user} no range of 65536 ids"),
                format!(
                    "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
                ),
            );
        }
    }
    Ok(())
}

/// Where mmdebstrap puts its tree: in memory if there is room (dpkg flushes every file it writes),
/// else on disk. In a user namespace its root must be able to reach the place, which it cannot below
/// a private directory; there it gets one of its own that others can pass through but not list.
fn work_directory(scratch: &mut Scratch, mode: Mode) -> Result<PathBuf, ImagesError> {
    let own = scratch.path().to_owned();
    let on_disk = match mode {
        Mode::Unshare => vec![PathBuf::from("/var/tmp"), PathBuf::from("/tmp")],
        Mode::Namespaced | Mode::Root => vec![own.clone()],
    };
    let usable = |path: &Path| {
        let can_execute = rustix::fs::statvfs(path)
            .is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC));
        can_execute && sparse::free_bytes(path).is_ok_and(|free| free >= TREE_BYTES)
    };
    let found = [PathBuf::from("/dev/shm")]
        .into_iter()
        .chain(on_disk)
        .find(|path| usable(path));
    match found {
        Some(path) if path == own => {
            let work = path.join("work");
            fs::create_dir(&work).map_err(ImagesError::io("create", &work))?;
            Ok(work)
        }
        Some(path) => scratch.annex(&path),
        None => Err(ImagesError::Unsupported {
            what: "build an image",
            reason: "there are not 2 GiB free, with programs allowed, in /dev/shm or on disk"
                .into(),
            fix: "make room in /dev/shm, /var/tmp or the data directory".into(),
        }),
    }
}

fn arguments(
    mode: Mode,
    source: &DebianSource,
    options: &BuildOptions,
    sources: &Path,
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    if mode == Mode::Namespaced {
        args.extend(UNSHARE.iter().map(OsString::from));
        args.push("mmdebstrap".into());
    }
    let mut packages: Vec<&str> = DEFAULT_PACKAGES.to_vec();
    packages.extend(options.packages.iter().map(String::as_str));
    packages.sort_unstable();
    packages.dedup();
    let mode = if mode == Mode::Unshare {
        "unshare"
    } else {
        "root"
    };
    for option in [
        "--variant=minbase",
        "--format=tar",
        &format!("--mode={mode}"),
        &format!("--include={}", packages.join(",")),
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Acquire::Retries \"3\"",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/info/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-include=/usr/share/locale/locale.alias",
        "--dpkgopt=path-exclude=/usr/share/man/*",
    ] {
        args.push(option.into());
    }
    args.push(source.suite().into());
    args.push("-".into());
    args.push(sources.into());
    args
}

/// Tells the step which stage mmdebstrap is at.
fn report(line: &str, step: &mut Step<'_>) {
    let Some(text) = line.strip_prefix("I: ") else {
        return;
    };
    let found = STAGES
        .iter()
        .position(|(begins, _)| text.starts_with(begins));
    if let Some(stage) = found {
        let detail = format!(
            "{} (stage {} of {})",
            STAGES[stage].1,
            stage + 1,
            STAGES.len()
        );
        step.detail(detail, None, None);
    }
}

/// What of mmdebstrap's archive goes into the image.
fn rule(path: &str, kind: Kind) -> Rule {
    let is_below = |directory: &str| {
        path.strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    // systemd makes an id for the machine when it finds the file empty.
    if path == "etc/machine-id" {
        return Rule::Empty;
    }
    let is_host_key = path.starts_with("etc/ssh/ssh_host_");
    let is_this_hosts = matches!(
        path,
        "etc/hostname"
            | "etc/resolv.conf"
            | "etc/mailname"
            | "var/lib/dbus/machine-id"
            | "var/lib/systemd/random-seed"
            | "var/cache/ldconfig/aux-cache"
            | "var/cache/debconf/config.dat-old"
            | "var/cache/debconf/templates.dat-old"
            | "var/lib/dpkg/status-old"
            | "var/lib/dpkg/available-old"
            | "var/lib/dpkg/diversions-old"
    );
    let is_temporary = ["tmp", "var/tmp", "run"].into_iter().any(is_below);
    // apt and services expect the directories of their caches and logs; only the files go.
    let is_left_over = kind != Kind::Directory
        && ["var/cache/apt", "var/lib/apt/lists", "var/log"]
            .into_iter()
            .any(is_below);
    if is_host_key || is_this_hosts || is_temporary || is_left_over {
        return Rule::Drop;
    }
    Rule::Keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_random_or_this_hosts_is_left_out() {
        for (path, expected) in [
            ("etc/ssh/ssh_host_ed25519_key", Rule::Drop),
            ("etc/ssh/sshd_config", Rule::Keep),
            ("etc/machine-id", Rule::Empty),
            ("etc/resolv.conf", Rule::Drop),
            ("etc/hostname", Rule::Drop),
            ("etc/hosts", Rule::Keep),
            ("var/log", Rule::Keep),
            ("var/log/dpkg.log", Rule::Drop),
            ("var/lib/apt/lists/lock", Rule::Drop),
            ("tmp", Rule::Keep),
            ("tmp/x", Rule::Drop),
            ("run/lock", Rule::Drop),
            ("runner", Rule::Keep),
        ] {
            assert_eq!(rule(path, Kind::File), expected, "{path}");
        }
        assert_eq!(rule("var/log/apt", Kind::Directory), Rule::Keep);
        assert_eq!(rule("run/lock", Kind::Directory), Rule::Drop);
    }

    #[test]
    fn build_refuses_packages_that_are_options() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), &dir.path().join("cache")).unwrap();
        let keyring = dir.path().join("keys");
        fs::write(&keyring, b"").unwrap();
        let apt = dir.path().join("apt");
        let sources = apt.join("sources.list.d");
        fs::create_dir_all(&sources).unwrap();
        fs::write(
            sources.join("a.list"),
            format!(
                "deb [signed-by={}] http://127.0.0.1:1/ bookworm main\n",
                keyring.display()
            ),
        )
        .unwrap();
        let source = DebianSource::detect_in(&apt, None, "bookworm").unwrap();
        for bad in ["-x", "a,b", "a b", "../x", "", "x\n"] {
            let options = BuildOptions {
                packages: vec![bad.to_owned()],
            };
            let tag = Tag::parse("x").unwrap();
            let error = store
                .image_build_debian(&tag, &source, &options, &NoProgress)
                .unwrap_err();
            assert!(
                matches!(error, ImagesError::Refused { .. }),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn stages_are_told_as_they_come() {
        struct Last(std::sync::Mutex<String>);
        impl ProgressSink for Last {
            fn report(&self, progress: crate::Progress) {
                *self.0.lock().unwrap() = progress.detail;
            }
            fn is_cancelled(&self) -> bool {
                false
            }
        }
        let last = Last(std::sync::Mutex::default());
        let mut step = Step::begin(&last, "x", "", None);
        report("I: installing essential packages...", &mut step);
        assert_eq!(
            *last.0.lock().unwrap(),
            "installing the base (stage 4 of 7)"
        );
        report("W: something", &mut step);
        assert_eq!(
            *last.0.lock().unwrap(),
            "installing the base (stage 4 of 7)"
        );
    }
}
