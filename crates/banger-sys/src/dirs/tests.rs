//! What is refused, and races against somebody who renames beneath a held directory.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities, unshare_unsafe};

use super::*;

const SWAPS: usize = 10_000;

/// For tests that this machine is not made for. Where all must run, they fail.
pub(crate) fn cannot_run(why: &str) {
    assert!(
        std::env::var_os("ALL_TESTS_MUST_RUN").is_none(),
        "this test has to run here: {why}"
    );
    eprintln!("not run: {why}");
}

pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        cannot_run("it needs root");
    }
    is_root
}

/// For what the kernel or udev does by itself, which has no event to wait for.
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

/// Runs `inside` in a thread with a mount namespace of its own.
pub(crate) fn in_mount_namespace<T: Send>(inside: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: a mount namespace only, of this thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        inside()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

struct Place {
    temporary: tempfile::TempDir,
    dir: Dir,
}

impl Place {
    fn new() -> Self {
        Self::beneath("/tmp")
    }

    /// In a directory that only root can write, for what is to be trusted.
    fn of_root() -> Self {
        Self::beneath("/root")
    }

    fn beneath(parent: &str) -> Self {
        let temporary = tempfile::tempdir_in(parent).unwrap();
        let dir = Dir::open(temporary.path().to_str().unwrap()).unwrap();
        Self { temporary, dir }
    }

    fn path(&self, name: &str) -> String {
        self.temporary.path().join(name).to_str().unwrap().into()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn make_dir(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
    }

    fn exists(&self, name: &str) -> bool {
        Path::new(&self.path(name)).symlink_metadata().is_ok()
    }
}

fn why<T: std::fmt::Debug>(result: Result<T, PathError>) -> String {
    let error = result.unwrap_err();
    match error.errno() {
        Some(errno) => format!("{error}: {errno}"),
        None => error.to_string(),
    }
}

fn errno<T: std::fmt::Debug>(result: Result<T, PathError>) -> Errno {
    let error = result.unwrap_err();
    error.errno().unwrap_or_else(|| panic!("{error}"))
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, PathError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, PathError::Refused { .. }), "{error:?}");
}

#[test]
fn names_that_are_more_than_a_name_are_refused() {
    let place = Place::new();
    place.write("a", "");
    for name in ["", ".", "..", "/", "a/b", "/a", "a/", "../a", "a\0"] {
        is_refused(place.dir.child(name));
        is_refused(place.dir.create_child(name, 0o700));
        is_refused(place.dir.open_file(name, OFlags::RDONLY));
        is_refused(place.dir.create_new_file(name, 0o600));
        is_refused(place.dir.unlink(name));
        is_refused(place.dir.remove_child(name));
        is_refused(place.dir.remove_tree(name, 10));
        is_refused(place.dir.rename("a", name));
        is_refused(place.dir.rename(name, "b"));
        is_refused(place.dir.create_block_node(name, 0o600, 0));
    }
    for path in ["", "/", "..", "a/..", "./a", "a//b", "a/", "/etc/passwd"] {
        is_refused(place.dir.open_socket(path, None));
        is_refused(Dir::open(&format!("relative{path}")));
    }
    for path in [
        "/tmp/", "/tmp/..", "//tmp", "/tmp/./x", "tmp", "", "/tmp/a\0",
    ] {
        is_refused(Dir::open(path));
    }
    assert!(place.exists("a"));
}

#[test]
fn open_follows_no_link_at_any_step() {
    let place = Place::new();
    place.make_dir("real/inner");
    symlink("real", place.path("link")).unwrap();
    assert!(Dir::open(&place.path("real/inner")).is_ok());
    assert_eq!(errno(Dir::open(&place.path("link/inner"))), Errno::LOOP);
    assert_eq!(errno(Dir::open("/proc/self/fd")), Errno::LOOP);
    assert_eq!(
        errno(Dir::open(&format!("/proc/{}/root/tmp", std::process::id()))),
        Errno::LOOP
    );
    // With these flags the kernel says of a link at the end that it is no directory.
    assert!(matches!(
        errno(place.dir.child("link")),
        Errno::LOOP | Errno::NOTDIR
    ));
}

#[test]
fn child_and_open_refuse_to_cross_a_mount() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.make_dir("here/deep");
    place.make_dir("other");
    in_mount_namespace(|| {
        let dir = Dir::open(&place.path("")[..place.path("").len() - 1]).unwrap();
        // A bind of the same file system: device numbers would not tell.
        mount_bind(place.path("other"), place.path("here")).unwrap();
        assert_eq!(errno(dir.child("here")), Errno::XDEV);
        assert_eq!(errno(dir.open_socket("here/x", None)), Errno::XDEV);
        assert_eq!(errno(dir.remove_tree("here", 100)), Errno::XDEV);
    });
    assert!(place.exists("here/deep"));
}

#[test]
fn create_child_adopts_nothing_that_exists() {
    let place = Place::new();
    place.make_dir("dir");
    place.write("file", "");
    symlink("/root", place.path("link")).unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    for name in ["dir", "file", "link", "dangling"] {
        assert_eq!(errno(place.dir.create_child(name, 0o700)), Errno::EXIST);
        assert_eq!(errno(place.dir.create_new_file(name, 0o600)), Errno::EXIST);
    }
    let made = place.dir.create_child("new", 0o711).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    made.verify(uid, 0o066).unwrap();
    is_refused(made.verify(uid, 0o001));
    is_refused(made.verify(uid + 1, 0));
    let file = place.dir.create_new_file("new-file", 0o640).unwrap();
    assert_eq!(fstat(file).unwrap().st_mode & 0o7777, 0o640);
    is_refused(place.dir.create_child("sticky", 0o1777));
    is_refused(place.dir.create_new_file("setuid", 0o4755));
    assert!(!place.exists("sticky") && !place.exists("setuid"));
}

#[test]
fn open_file_refuses_all_but_regular_files_and_never_waits() {
    let place = Place::new();
    place.write("file", "text");
    place.make_dir("dir");
    symlink("file", place.path("link")).unwrap();
    rustix::fs::mknodat(CWD, place.path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(place.dir.read("file", 4).unwrap(), b"text");
    assert_eq!(errno(place.dir.read("file", 3)), Errno::FBIG);
    assert_eq!(errno(place.dir.read("link", 4)), Errno::LOOP);
    is_refused(place.dir.read("fifo", 4));
    is_refused(place.dir.read("dir", 4));
    std::fs::hard_link(place.path("file"), place.path("second")).unwrap();
    assert!(why(place.dir.read("file", 4)).contains("exactly one name"));
    // Not even when asked for is something made by opening.
    let flags = OFlags::WRONLY | OFlags::CREATE;
    assert_eq!(errno(place.dir.open_file("new", flags)), Errno::NOENT);
}

#[test]
fn names_are_listed_up_to_the_cap() {
    let place = Place::new();
    place.write("a", "");
    place.make_dir("b");
    let mut names = place.dir.names(2).unwrap();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    is_refused(place.dir.names(1));
    place.dir.rename("a", "c").unwrap();
    place.write("d", "");
    place.dir.rename("c", "d").unwrap();
    place.dir.unlink("d").unwrap();
    place.dir.remove_child("b").unwrap();
    assert!(place.dir.names(0).unwrap().is_empty());
}

#[test]
fn open_socket_refuses_links_other_files_and_other_owners() {
    let place = Place::new();
    place.make_dir("run");
    let _listener = UnixListener::bind(place.path("run/api.sock")).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    place.dir.open_socket("run/api.sock", Some(uid)).unwrap();
    is_refused(place.dir.open_socket("run/api.sock", Some(uid + 1)));
    symlink("api.sock", place.path("run/leaf")).unwrap();
    is_refused(place.dir.open_socket("run/leaf", None));
    symlink("run", place.path("middle")).unwrap();
    assert_eq!(
        errno(place.dir.open_socket("middle/api.sock", None)),
        Errno::LOOP
    );
    place.write("run/file", "");
    is_refused(place.dir.open_socket("run/file", None));
    std::fs::hard_link(place.path("run/api.sock"), place.path("second")).unwrap();
    is_refused(place.dir.open_socket("run/api.sock", None));
}

#[test]
fn chown_refuses_links_second_names_and_other_types() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write("file", "");
    symlink("file", place.path("link")).unwrap();
    let at = |name: &str| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(place.path(name), flags, Mode::empty()).unwrap()
    };
    let regular = Wanted::of(FileType::RegularFile);
    is_refused(chown(at("link"), regular, Some(7), Some(7)));
    is_refused(chmod(at("link"), regular, 0o777));
    is_refused(chown(
        at("file"),
        Wanted::of(FileType::Socket),
        Some(7),
        None,
    ));
    is_refused(chown(at("file"), regular, Some(u32::MAX), None));
    is_refused(chown(at("file"), regular, None, Some(u32::MAX)));
    is_refused(chmod(at("file"), regular, 0o4755));
    chown(at("file"), regular, Some(7), None).unwrap();
    chmod(at("file"), regular, 0o640).unwrap();
    let file = std::fs::metadata(place.path("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (7, 0));
    assert_eq!(file.mode() & 0o7777, 0o640);
    let link = std::fs::symlink_metadata(place.path("link")).unwrap();
    assert_eq!(link.uid(), 0);
    let strict = Wanted {
        owner: Some(7),
        forbidden: 0o077,
        ..regular
    };
    is_refused(chown(at("file"), strict, Some(0), None));
    std::fs::hard_link(place.path("file"), place.path("second")).unwrap();
    is_refused(chown(at("file"), regular, Some(8), None));
    is_refused(chmod(at("file"), regular, 0o666));
    let socket = UnixListener::bind(place.path("socket")).unwrap();
    drop(socket);
    let fd = place.dir.open_socket("socket", Some(0)).unwrap();
    chmod(&fd, Wanted::of(FileType::Socket), 0o660).unwrap();
    chown(&fd, Wanted::of(FileType::Socket), Some(9), None).unwrap();
    let socket = std::fs::metadata(place.path("socket")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o7777), (9, 0o660));
}

#[test]
fn find_gives_the_same_file_or_none() {
    let place = Place::new();
    place.make_dir("state/vm");
    place.make_dir("state-evil");
    place.write("state/vm/disk", "");
    place.write("state-evil/disk", "");
    let state = place.dir.child("state").unwrap();
    let open = |name: &str| std::fs::File::open(place.path(name)).unwrap();
    let disk = open("state/vm/disk");
    let found = state.find(&disk).unwrap();
    assert_eq!(
        fstat(&found).unwrap().st_ino,
        disk.metadata().unwrap().ino()
    );
    // A longer name is no prefix; nor is the directory itself beneath itself.
    is_refused(state.find(open("state-evil/disk")));
    is_refused(state.find(&state));
    is_refused(state.find(open("/etc/passwd")));
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    is_refused(state.find(pipe));
    // Another file in its place, and none.
    place.write("state/vm/new", "");
    let old = open("state/vm/new");
    std::fs::rename(place.path("state/vm/disk"), place.path("state/vm/new")).unwrap();
    assert!(state.find(&old).is_err());
    std::fs::remove_file(place.path("state/vm/new")).unwrap();
    assert!(state.find(&disk).is_err());
}

/// A tree that must be whole in the end.
fn sentinel(place: &Place, name: &str, dirs: usize, files: usize) {
    for dir in 0..dirs {
        place.make_dir(&format!("{name}/{dir}"));
        for file in 0..files {
            place.write(&format!("{name}/{dir}/{file}"), "kept");
        }
    }
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            if entry.file_type().unwrap().is_dir() {
                1 + count(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[test]
fn remove_tree_removes_whatever_it_is() {
    let place = Place::new();
    place.dir.remove_tree("missing", 10).unwrap();
    place.write("file", "");
    sentinel(&place, "sentinel", 3, 3);
    symlink("sentinel", place.path("link")).unwrap();
    sentinel(&place, "wide", 2, 3000);
    symlink("../../sentinel", place.path("wide/0/link")).unwrap();
    symlink(place.path("sentinel"), place.path("wide/absolute")).unwrap();
    rustix::fs::mknodat(CWD, place.path("wide/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::set_permissions(
        place.path("wide/1"),
        std::fs::Permissions::from_mode(0o1777),
    )
    .unwrap();
    for name in ["file", "link", "wide"] {
        place.dir.remove_tree(name, 10_000).unwrap();
        assert!(!place.exists(name), "{name}");
    }
    assert_eq!(count(Path::new(&place.path("sentinel"))), 12);
}

#[test]
fn remove_tree_removes_deeper_than_descriptors_and_paths_reach() {
    const DEPTH: usize = 1_000;
    let place = Place::new();
    let mut dir = place.dir.create_child("deep", 0o700).unwrap();
    for _ in 0..DEPTH {
        dir.create_new_file("file", 0o600).unwrap();
        // The name that the tree's removal would give, taken.
        dir.create_new_file(".deep-0", 0o600).unwrap();
        dir = dir.create_child("d", 0o700).unwrap();
    }
    drop(dir);
    place.dir.remove_tree("deep", 4 * DEPTH).unwrap();
    assert!(!place.exists("deep"));
}

#[test]
fn remove_tree_stops_at_its_cap_and_goes_on_next_time() {
    let place = Place::new();
    sentinel(&place, "tree", 4, 10);
    is_refused(place.dir.remove_tree("tree", 20));
    let left = count(Path::new(&place.path("tree")));
    assert!((1..44).contains(&left), "{left}");
    place.dir.remove_tree("tree", 45).unwrap();
    assert!(!place.exists("tree"));
}

#[test]
fn remove_tree_leaves_an_embedded_mount_and_removes_the_rest() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    sentinel(&place, "home", 100, 100);
    sentinel(&place, "jail", 5, 5);
    place.make_dir("jail/0/home");
    place.make_dir("jail/1/memory");
    place.write("jail/2/bound", "");
    in_mount_namespace(|| {
        mount_bind(place.path("home"), place.path("jail/0/home")).unwrap();
        mount_bind(place.path("home/0/0"), place.path("jail/2/bound")).unwrap();
        let memory = place.path("jail/1/memory");
        mount("tmpfs", memory.as_str(), "tmpfs", MountFlags::empty(), None).unwrap();
        place.write("jail/1/memory/file", "");
        let dir = Dir::open(place.temporary.path().to_str().unwrap()).unwrap();
        assert!(matches!(
            errno(dir.remove_tree("jail", 1000)),
            Errno::XDEV | Errno::BUSY
        ));
        assert!(place.exists("jail/1/memory/file"));
        for gone in ["jail/0/0", "jail/3", "jail/4"] {
            assert!(!place.exists(gone), "{gone}");
        }
    });
    assert_eq!(count(Path::new(&place.path("home"))), 10_100);
    // Unmounted, the rest goes too.
    place.dir.remove_tree("jail", 1000).unwrap();
    assert!(!place.exists("jail"));
}

#[test]
fn remove_tree_needs_no_fowner_for_sticky_directories_of_others() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.make_dir("jail/tmp/inner");
    place.write("jail/tmp/file", "");
    for name in ["jail/tmp/inner", "jail/tmp/file", "jail/tmp"] {
        std::os::unix::fs::chown(place.path(name), Some(4242), Some(4242)).unwrap();
    }
    let sticky = std::fs::Permissions::from_mode(0o1000);
    std::fs::set_permissions(place.path("jail/tmp"), sticky).unwrap();
    let remove = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE;
        set_capabilities(None, sets).unwrap();
        assert_eq!(
            rustix::fs::unlinkat(CWD, place.path("jail/tmp/file"), AtFlags::empty()),
            Err(Errno::PERM)
        );
        place.dir.remove_tree("jail", 100)
    };
    std::thread::scope(|scope| scope.spawn(remove).join().unwrap()).unwrap();
    assert!(!place.exists("jail"));
}

fn exchange(from: (&Dir, &str), to: (&Dir, &str)) -> bool {
    renameat_with(from.0, from.1, to.0, to.1, RenameFlags::EXCHANGE).is_ok()
}

/// Swaps until it has done so often enough and `done` says that the other side has, too.
fn swap_until(swaps: &AtomicUsize, done: &AtomicBool, mut swap: impl FnMut() -> bool) {
    while swaps.load(Ordering::Relaxed) < SWAPS || !done.load(Ordering::Relaxed) {
        if swap() {
            swaps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a race goes on: until there were enough swaps and all outcomes were seen; on a busy
/// machine one side may run alone for a while.
fn is_racing(swaps: &AtomicUsize, has_seen_all: bool, patience: Instant) -> bool {
    swaps.load(Ordering::Relaxed) < SWAPS || !has_seen_all && Instant::now() < patience
}

#[test]
fn race_remove_tree_never_leaves_the_tree() {
    let place = Place::new();
    sentinel(&place, "sentinel", 100, 100);
    place.make_dir("attic");
    let (swaps, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (mut rounds, mut whole) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let attic = place.dir.child("attic").unwrap();
            swap_until(&swaps, &done, || {
                // A directory of the tree for a link out of it, at two depths, and back.
                let Ok(jail) = place.dir.child("jail") else {
                    return false;
                };
                let swapped = exchange((&jail, "middle"), (&attic, "out"));
                match jail.child("0") {
                    Ok(zero) => exchange((&zero, "sub"), (&attic, "out")) || swapped,
                    Err(_) => swapped,
                }
            });
        });
        let patience = Instant::now() + Duration::from_secs(60);
        while is_racing(&swaps, rounds >= 100 && whole > 0, patience) {
            rounds += 1;
            place.make_dir("jail/0");
            let fill = |name: &str| {
                // May have become a link: what is made through one then is not counted.
                let Ok(dir) = place.dir.child("jail").and_then(|jail| jail.child(name)) else {
                    return;
                };
                for sub in ["sub", "a", "b"] {
                    if let Ok(dir) = dir.create_child(sub, 0o700) {
                        for file in ["x", "y", "z"] {
                            drop(dir.create_new_file(file, 0o600));
                        }
                    }
                }
            };
            let jail = place.dir.child("jail").unwrap();
            drop(jail.create_child("middle", 0o700));
            fill("0");
            fill("middle");
            drop(symlink(place.path("sentinel"), place.path("attic/out")));
            whole += usize::from(place.dir.remove_tree("jail", 100_000).is_ok());
        }
        done.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    println!("{swaps} swaps, {rounds} removals, {whole} of them whole");
    assert!(whole > 0);
    assert_eq!(count(Path::new(&place.path("sentinel"))), 10_100);
    place.dir.remove_tree("jail", 100_000).unwrap();
    assert!(!place.exists("jail"));
}

#[test]
fn race_open_socket_gives_only_the_socket_within() {
    let place = Place::new();
    place.make_dir("jail/run");
    place.make_dir("outside");
    let _inside = UnixListener::bind(place.path("jail/run/api.sock")).unwrap();
    let _outside = UnixListener::bind(place.path("outside/api.sock")).unwrap();
    let inode = std::fs::metadata(place.path("jail/run/api.sock"))
        .unwrap()
        .ino();
    symlink(place.path("outside/api.sock"), place.path("jail/leaf")).unwrap();
    symlink("../outside", place.path("jail/middle")).unwrap();
    let jail = place.dir.child("jail").unwrap();
    let run = jail.child("run").unwrap();
    let (swaps, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (mut right, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            swap_until(&swaps, &done, || {
                turn += 1;
                if turn % 2 == 0 {
                    exchange((&jail, "leaf"), (&run, "api.sock"))
                } else {
                    exchange((&jail, "middle"), (&jail, "run"))
                }
            });
        });
        let patience = Instant::now() + Duration::from_secs(60);
        while is_racing(&swaps, right > 0 && refused > 0, patience) {
            match jail.open_socket("run/api.sock", None) {
                Ok(fd) => {
                    assert_eq!(fstat(fd.as_fd()).unwrap().st_ino, inode);
                    right += 1;
                }
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!(
        "{} swaps, {right} right, {refused} refused",
        swaps.into_inner()
    );
    assert!(right > 0 && refused > 0);
}

const PROGRAM: &str = "/usr/bin/true";

#[test]
fn verified_program_takes_what_only_root_could_have_put_there() {
    let fd = verified_program(PROGRAM).unwrap();
    let expected = std::fs::metadata(PROGRAM).unwrap();
    assert_eq!(fstat(fd).unwrap().st_ino, expected.ino());
}

#[test]
fn verified_program_refuses_what_others_could_have_changed() {
    if !is_root() {
        return;
    }
    let place = Place::of_root();
    let put = |name: &str, mode: u32| {
        std::fs::copy(PROGRAM, place.path(name)).unwrap();
        std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let verify = |name: &str| verified_program(&place.path(name));
    put("good", 0o755);
    verify("good").unwrap();
    for (name, mode) in [
        ("group-writable", 0o775),
        ("world-writable", 0o757),
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("not-executable", 0o644),
    ] {
        put(name, mode);
        is_refused(verify(name));
    }
    put("foreign", 0o755);
    std::os::unix::fs::chown(place.path("foreign"), Some(1000), None).unwrap();
    is_refused(verify("foreign"));
    place.write("script", "#!/bin/sh\n");
    std::fs::set_permissions(place.path("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    is_refused(verify("script"));
    put("capable", 0o755);
    // Revision 2, effective, CAP_NET_ADMIN.
    let mut capability = [0_u8; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x10, 0, 0]);
    rustix::fs::setxattr(
        place.path("capable"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    is_refused(verify("capable"));
    symlink("good", place.path("link")).unwrap();
    assert_eq!(errno(verify("link")), Errno::LOOP);
    place.make_dir("real");
    put("real/good", 0o755);
    symlink("real", place.path("middle")).unwrap();
    assert!(matches!(
        errno(verify("middle/good")),
        Errno::LOOP | Errno::NOTDIR
    ));
    verify("real/good").unwrap();
    std::os::unix::fs::chown(place.path("real"), Some(1000), None).unwrap();
    is_refused(verify("real/good"));
    rustix::fs::mknodat(CWD, place.path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    is_refused(verify("fifo"));
    is_refused(verify("real"));
    let held = std::fs::File::open(PROGRAM).unwrap();
    assert!(matches!(
        errno(verified_program(&link_of(held.as_fd()))),
        Errno::LOOP | Errno::NOTDIR
    ));
    // In a directory that anybody can write.
    let public = Place::new();
    std::fs::copy(PROGRAM, public.path("good")).unwrap();
    is_refused(verified_program(&public.path("good")));
    for path in ["", "true", "/usr/bin/../bin/true", "/usr/bin/true/", "/"] {
        is_refused(verified_program(path));
    }
}

#[test]
fn race_verified_program_gives_only_the_one_that_was_checked() {
    if !is_root() {
        return;
    }
    let place = Place::of_root();
    for name in ["vmm", "evil"] {
        std::fs::copy(PROGRAM, place.path(name)).unwrap();
    }
    std::os::unix::fs::chown(place.path("evil"), Some(1000), None).unwrap();
    let good = std::fs::metadata(place.path("vmm")).unwrap().ino();
    let (swaps, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (mut right, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            swap_until(&swaps, &done, || {
                exchange((&place.dir, "vmm"), (&place.dir, "evil"))
            });
        });
        let patience = Instant::now() + Duration::from_secs(60);
        while is_racing(&swaps, right > 0 && refused > 0, patience) {
            match verified_program(&place.path("vmm")) {
                Ok(fd) => {
                    assert_eq!(fstat(fd).unwrap().st_ino, good);
                    right += 1;
                }
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!(
        "{} swaps, {right} right, {refused} refused",
        swaps.into_inner()
    );
    assert!(right > 0 && refused > 0);
}
