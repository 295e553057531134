//! Real programs through `spawn`: what they see, and how each failing step is told apart.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct Case {
    argv: Vec<CString>,
    cwd: CString,
    identity: Option<Identity>,
}

fn case(argv: &[&str]) -> Case {
    Case {
        argv: argv.iter().map(|arg| CString::new(*arg).unwrap()).collect(),
        cwd: c"/".to_owned(),
        identity: None,
    }
}

fn run(case: Case) -> Result<(String, Option<i32>), SpawnError> {
    let null = std::fs::File::open("/dev/null").unwrap();
    let (output, input) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let child = spawn(&Program {
        path: &case.argv[0],
        argv: &case.argv,
        env: &[c"PATH=/usr/bin:/bin".to_owned(), c"X=y z".to_owned()],
        cwd: &case.cwd,
        stdio: [null.as_fd(), input.as_fd(), input.as_fd()],
        identity: case.identity,
        session: Session::New,
        resets_oom_score: false,
    })?;
    drop(input);
    let mut text = String::new();
    std::fs::File::from(output)
        .read_to_string(&mut text)
        .unwrap();
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    Ok((text, status.exit_status()))
}

#[test]
fn the_child_gets_what_was_asked_and_nothing_else() {
    let mut wanted = case(&[
        "/bin/sh",
        "-c",
        "pwd; echo \"$X\"; echo $0 $1; ls /proc/self/fd | wc -l; \
         grep -E '^Sig(Blk|Ign)' /proc/self/status; exit 7",
        "zero",
        "one",
    ]);
    wanted.cwd = c"/tmp".to_owned();
    // Open, inheritable and above 2: must not reach the child.
    let held = std::fs::File::open("/dev/null").unwrap();
    let _leaky = rustix::io::dup(&held).unwrap();
    let (text, code) = run(wanted).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // `ls` itself holds one more: the directory.
    assert_eq!(&lines[..4], ["/tmp", "y z", "zero one", "4"]);
    for line in &lines[4..] {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    assert_eq!(code, Some(7));
}

#[test]
fn a_child_leads_its_own_session() {
    let (text, _) = run(case(&["/bin/sh", "-c", "echo $$; cat /proc/$$/stat"])).unwrap();
    let (pid, stat) = text.split_once('\n').unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!([fields[2], fields[3]], [pid, pid], "{stat}");
}

#[test]
fn failures_name_their_step() {
    let fails = |case| run(case).unwrap_err();
    let exec = |errno| SpawnError::Child {
        step: Step::Exec,
        errno,
    };
    assert_eq!(fails(case(&["/no/such/program"])), exec(Errno::NOENT));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "\x7fjunk").unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(fails(case(&[path])), exec(Errno::ACCESS));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fails(case(&[path])), exec(Errno::NOEXEC));
    let mut elsewhere = case(&["/bin/true"]);
    elsewhere.cwd = c"/no/such/dir".to_owned();
    assert_eq!(
        fails(elsewhere),
        SpawnError::Child {
            step: Step::Cwd,
            errno: Errno::NOENT
        }
    );
}

#[test]
fn identity_is_taken_whole_or_not_at_all() {
    let mut other = case(&["/bin/sh", "-c", "id -u; id -g; id -G"]);
    other.identity = Some(Identity {
        uid: 12_345,
        gid: 12_346,
        groups: vec![12_347, 12_348],
    });
    match run(other) {
        Ok((text, _)) => assert_eq!(text, "12345\n12346\n12346 12347 12348\n"),
        Err(error) => {
            eprintln!("not root: only the refusal was seen");
            assert_eq!(
                error,
                SpawnError::Child {
                    step: Step::Identity,
                    errno: Errno::PERM
                }
            );
        }
    }
}

#[test]
fn spawn_exact_maps_descriptors_and_executes_the_held_file() {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("program");
    std::fs::copy("/bin/sh", &program).unwrap();
    let image = std::fs::File::open(&program).unwrap();
    // Another program under the name by now: what is held is executed.
    std::fs::remove_file(&program).unwrap();
    std::fs::copy("/bin/false", &program).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (output, input) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let text = place.path().join("text");
    std::fs::write(&text, "given").unwrap();
    // More than a few, so that numbers of the caller's and the child's overlap.
    let given: Vec<_> = (0..20)
        .map(|_| std::fs::File::open(&text).unwrap())
        .collect();
    let fds: Vec<_> = given.iter().rev().map(AsFd::as_fd).collect();
    let path = CString::new(program.to_str().unwrap()).unwrap();
    let script = "cat <&3; cat /proc/self/fd/22; echo $0; ls /proc/self/fd | wc -l; env";
    let child = spawn_exact(
        &Program {
            path: &path,
            argv: &["zero", "-c", script, "one"].map(|arg| CString::new(arg).unwrap()),
            env: &[c"PATH=/bin".to_owned()],
            cwd: c"/",
            stdio: [null.as_fd(), input.as_fd(), input.as_fd()],
            identity: None,
            session: Session::New,
            resets_oom_score: false,
        },
        Exact {
            image: Some(image.as_fd()),
            fds: &fds,
        },
    )
    .unwrap();
    drop(input);
    let mut text = String::new();
    std::fs::File::from(output)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(
        crate::pidfd::reap(&child.pidfd).unwrap(),
        crate::pidfd::Ended::Exited(0)
    );
    // 3 and 20 of its own, and one that `ls` opens; dash adds PWD.
    assert_eq!(text, "givengivenone\n24\nPATH=/bin\nPWD=/\n");
}

#[test]
fn spawn_exact_refuses_a_script_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = std::fs::File::open(&script).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let refused = spawn_exact(
        &Program {
            path: c"/bin/true",
            argv: &[c"true".to_owned()],
            env: &[],
            cwd: c"/",
            stdio: [null.as_fd(); 3],
            identity: None,
            session: Session::New,
            resets_oom_score: false,
        },
        Exact {
            image: Some(image.as_fd()),
            fds: &[],
        },
    );
    assert!(
        matches!(
            refused,
            Err(SpawnError::Child {
                step: Step::Exec,
                errno: Errno::NOENT
            })
        ),
        "{refused:?}"
    );
}
