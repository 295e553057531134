//! Files into a VM and out of it.

use crate::fake::{Home, Request, booted};
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, Kind, chunks};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tar::{Builder, EntryType, Header};

/// The names in a tar stream.
fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect()
}

/// A home whose VM gives `tar` out.
fn gives(tar: Vec<u8>) -> Home {
    Home::serve(move |request: Request| {
        assert_eq!(request.path, "/v1/vms/dev/copy-out");
        let mut stream = request.upgrade();
        stream.event(&StreamEvent::Open);
        for frame in chunks(Kind::Data, &tar) {
            stream.send(&frame);
        }
        stream.send(&Frame::new(Kind::Data, Vec::new()));
        stream.exit(0);
        while stream.recv().is_some() {}
    })
}

fn tar(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target, content) in entries {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn copy_out_puts_things_where_cp_would() {
    let home = gives(tar(&[(EntryType::Regular, "hosts", "", "content")]));
    let at = |name: &str| home.path().join(name);
    let cp = |to: &str| {
        home.run(&["cp", "dev:/etc/hosts", at(to).to_str().unwrap()])
            .code
    };
    assert_eq!(cp("copy"), 0);
    assert_eq!(read(&at("copy")), "content");
    std::fs::create_dir(at("dir")).unwrap();
    assert_eq!(cp("dir"), 0);
    assert_eq!(read(&at("dir/hosts")), "content");
    assert_eq!(cp("missing/"), 3);
    let streamed = home
        .banger(&["cp", "dev:/etc/hosts", "-"])
        .output()
        .unwrap();
    assert_eq!(names(&streamed.stdout), ["hosts"]);

    let home = gives(tar(&[
        (EntryType::Directory, "src/", "", ""),
        (EntryType::Regular, "src/a", "", "A"),
    ]));
    let at = |name: &str| home.path().join(name);
    let cp = |from: &str, to: &str| home.run(&["cp", from, at(to).to_str().unwrap()]).code;
    assert_eq!(cp("dev:/src", "new"), 0);
    assert_eq!(read(&at("new/a")), "A");
    assert_eq!(cp("dev:/src", "new"), 0);
    assert_eq!(read(&at("new/src/a")), "A");
    std::fs::create_dir(at("flat")).unwrap();
    assert_eq!(cp("dev:/src/.", "flat"), 0);
    assert_eq!(read(&at("flat/a")), "A");
}

#[test]
fn copy_out_refuses_a_hostile_tar() {
    for entries in [
        &[(EntryType::Regular, "src/../../victim", "", "after")][..],
        &[(EntryType::Regular, "/tmp/banger-victim", "", "after")],
        &[
            (EntryType::Symlink, "src/out", "../..", ""),
            (EntryType::Regular, "src/out/victim", "", "after"),
        ],
        &[(EntryType::Link, "src/hard", "../victim", "")],
    ] {
        let home = gives(tar(entries));
        let to = home.path().join("a/to");
        std::fs::create_dir_all(&to).unwrap();
        for victim in ["victim", "a/victim"] {
            std::fs::write(home.path().join(victim), "before").unwrap();
        }
        let refused = home.run(&["cp", "dev:/src", to.to_str().unwrap()]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("refused"), "{refused:?}");
        for victim in ["victim", "a/victim"] {
            assert_eq!(read(&home.path().join(victim)), "before");
        }
    }
}

#[test]
fn copy_out_that_is_cut_off_fails() {
    let whole = tar(&[(EntryType::Regular, "big", "", &"x".repeat(5000))]);
    let home = Home::serve(move |request: Request| {
        let mut stream = request.upgrade();
        stream.event(&StreamEvent::Open);
        stream.send(&Frame::new(Kind::Data, &whole[..2000]));
        stream.fail("vm_gone", "the VM crashed");
    });
    let to = home.path().join("to");
    let failed = home.run(&["cp", "dev:/big", to.to_str().unwrap()]);
    assert_eq!(failed.code, 4, "{failed:?}");
    assert!(failed.stderr.contains("the VM crashed"), "{failed:?}");
}

/// A home whose VM has the directory `/dir` and nothing else; what it was given is recorded as
/// `DIR NAMES`.
fn takes() -> (Home, Arc<Mutex<Vec<String>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let record = taken.clone();
    let home = Home::serve(move |request: Request| {
        let body = request.body.clone();
        let dir = body["dir"].as_str().unwrap().to_owned();
        let mut stream = request.upgrade();
        if dir != "/dir" && dir != "/" && body["create"] == false {
            return stream.fail("not_found", "no such directory");
        }
        stream.event(&StreamEvent::Open);
        let tar = stream.data(Kind::Data);
        let line = format!("{dir} {}", names(&tar).join(" "));
        record.lock().unwrap().push(line);
        stream.exit(0);
    });
    (home, taken)
}

#[test]
fn copy_in_puts_things_where_cp_would() {
    let (home, taken) = takes();
    let source = home.path().join("src");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let file = source.join("file");
    let (source, file) = (source.to_str().unwrap(), file.to_str().unwrap());
    let contents = format!("{source}/.");
    for (from, to, expected) in [
        (file, "dev:/dir", "/dir file"),
        (file, "dev:/dir/", "/dir file"),
        (file, "dev:/renamed", "/ renamed"),
        (source, "dev:/dir", "/dir src src/file"),
        (source, "dev:/new", "/new file"),
        (contents.as_str(), "dev:/dir", "/dir file"),
    ] {
        let copied = home.run(&["cp", from, to]);
        assert_eq!(copied.code, 0, "{from} {to}: {copied:?}");
        assert_eq!(
            taken.lock().unwrap().pop().unwrap(),
            expected,
            "{from} {to}"
        );
    }
    assert_eq!(home.run(&["cp", file, "dev:/missing/"]).code, 3);
    assert_eq!(home.run(&["cp", "/no/such/file", "dev:/dir"]).code, 3);
    assert_eq!(home.run(&["cp", "a:/x", "b:/x"]).code, 2);
    assert_eq!(home.run(&["cp", "./x", "./y"]).code, 2);
}

#[test]
fn the_workspace_is_what_git_knows() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let record = taken.clone();
    let home = Home::serve(move |request: Request| {
        assert_eq!(request.body["workspace"], "/workspace");
        assert_eq!(request.body["exec"]["workdir"], "/workspace");
        let mut stream = request.upgrade();
        stream.event(&booted());
        *record.lock().unwrap() = names(&stream.data(Kind::Data));
        stream.event(&StreamEvent::Open);
        stream.exit(0);
    });
    let project = home.path().join("project");
    std::fs::create_dir_all(project.join("sub")).unwrap();
    for (name, content) in [
        ("tracked", "x"),
        ("sub/untracked", "x"),
        ("secret.env", "x"),
        (".gitignore", "*.env\n"),
    ] {
        std::fs::write(project.join(name), content).unwrap();
    }
    for arguments in [&["init", "-q"][..], &["add", "tracked"]] {
        let git = Command::new("git")
            .arg("-C")
            .arg(&project)
            .args(arguments)
            .status();
        assert!(git.unwrap().success());
    }
    let ran = home.run(&["run", project.to_str().unwrap(), "--", "make"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        *taken.lock().unwrap(),
        [".gitignore", "sub", "sub/untracked", "tracked"]
    );
}

#[test]
fn special_files_are_not_lost_without_a_word() {
    let home = gives(tar(&[(EntryType::Char, "null", "", "")]));
    let out = home.path().join("out");
    let refused = home.run(&["cp", "dev:/dev/null", out.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("it is a device"), "{refused:?}");
    let refused = home.run(&["cp", "/dev/null", "dev:/tmp/null"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let home = gives(tar(&[
        (EntryType::Directory, "dev/", "", ""),
        (EntryType::Fifo, "dev/pipe", "", ""),
    ]));
    let out = home.path().join("out");
    let copied = home.run(&["cp", "dev:/dev", out.to_str().unwrap()]);
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(
        copied.stderr.contains("left out 1 special file "),
        "{copied:?}"
    );
}

#[test]
fn many_read_only_directories_need_no_many_descriptors() {
    let mut builder = Builder::new(Vec::new());
    for index in 0..200 {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o555);
        header.set_size(0);
        let name = if index == 0 {
            "mod/".to_owned()
        } else {
            format!("mod/{index}/")
        };
        builder
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    let home = gives(builder.into_inner().unwrap());
    let out = home.path().join("out");
    let banger = home.banger(&["cp", "dev:/mod", out.to_str().unwrap()]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(banger.get_program())
        .args(banger.get_args())
        .env_clear()
        .envs(
            banger
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mode = |path: &Path| {
        let metadata = std::fs::metadata(path).unwrap();
        std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777
    };
    assert_eq!(mode(&out.join("199")), 0o555);
    assert_eq!(mode(&out), 0o555);
    // So that the temporary directory can be removed.
    std::fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
