//! Steps on a host of their own.

use super::*;
use crate::system::fake::{host, picture};

fn steps(from: &Path) -> Vec<Step> {
    let path = |path: &str| PathBuf::from(path);
    vec![
        Step::Group("banger-ipc"),
        Step::Directory {
            path: path("/lib"),
            mode: 0o755,
        },
        Step::File {
            path: path("/lib/program"),
            content: Content::Copy(from.to_owned()),
            mode: 0o755,
        },
        Step::File {
            path: path("/unit"),
            content: Content::Text("new\n".into()),
            mode: 0o644,
        },
        Step::Link {
            path: path("/command"),
            target: path("/lib/program"),
        },
        Step::Module("loop"),
    ]
}

#[test]
fn steps_are_carried_out_once() {
    let temp = tempfile::tempdir().unwrap();
    let from = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(from.path(), "code").unwrap();
    let (host, told) = host(temp.path());
    let steps = steps(from.path());
    let mut carried = Carried::none(&host);
    for step in &steps {
        assert!(carried.carry_out(step).unwrap(), "{step:?}");
    }
    carried.keep().unwrap();
    assert_eq!(*told.groups.borrow(), ["banger-ipc"]);
    std::fs::create_dir_all(temp.path().join("sys/module/loop")).unwrap();
    let before = picture(temp.path());
    let mut again = Carried::none(&host);
    for step in &steps {
        assert!(!again.carry_out(step).unwrap(), "{step:?}");
    }
    assert_eq!(picture(temp.path()), before);

    std::fs::write(temp.path().join("unit"), "edited\n").unwrap();
    assert!(again.carry_out(&steps[3]).unwrap());
    again.keep().unwrap();
    assert_eq!(picture(temp.path()), before);
}

#[test]
fn a_step_that_fails_undoes_those_before_it() {
    let from = tempfile::NamedTempFile::new().unwrap();
    for at in 0..6 {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("unit"), "old\n").unwrap();
        let before = picture(temp.path());
        let (host, told) = host(temp.path());
        let steps = steps(from.path());
        let mut carried = Carried::none(&host);
        for step in &steps[..at] {
            carried.carry_out(step).unwrap();
        }
        let broken = Step::File {
            path: "/no/such/directory".into(),
            content: Content::Text(String::new()),
            mode: 0o644,
        };
        carried.carry_out(&broken).unwrap_err();
        assert_eq!(carried.undo(), Vec::<String>::new());
        assert_eq!(picture(temp.path()), before, "after {at} steps");
        assert!(told.groups.borrow().is_empty());
    }
}

#[test]
fn what_a_killed_run_left_is_in_nobodys_way() {
    let temp = tempfile::tempdir().unwrap();
    for stale in [".banger-new-unit", ".banger-old-unit"] {
        std::fs::write(temp.path().join(stale), "half").unwrap();
    }
    std::fs::write(temp.path().join("unit"), "old\n").unwrap();
    let (host, _) = host(temp.path());
    let mut carried = Carried::none(&host);
    let step = Step::File {
        path: "/unit".into(),
        content: Content::Text("new\n".into()),
        mode: 0o644,
    };
    assert!(carried.carry_out(&step).unwrap());
    carried.keep().unwrap();
    assert_eq!(picture(temp.path()).len(), 1);
}

#[test]
fn what_a_killed_run_did_is_done_by_the_next_which_can_undo_it() {
    let temp = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
    let (host, _) = host(temp.path());
    let step = Step::File {
        path: "/unit".into(),
        content: Content::Text("new\n".into()),
        mode: 0o644,
    };
    put("unit", "new\n");
    put(".banger-old-unit", "old\n");
    put(".banger-new-unit", "ha");
    let mut carried = Carried::none(&host);
    assert!(carried.carry_out(&step).unwrap());
    assert_eq!(carried.undo(), Vec::<String>::new());
    assert_eq!(picture(temp.path()).len(), 1);
    let text = std::fs::read_to_string(temp.path().join("unit")).unwrap();
    assert_eq!(text, "old\n");

    put("unit", "new\n");
    put(".banger-old-unit", "old\n");
    let mut carried = Carried::none(&host);
    assert!(carried.carry_out(&step).unwrap());
    carried.keep().unwrap();
    assert!(!Carried::none(&host).carry_out(&step).unwrap());
    assert_eq!(picture(temp.path()).len(), 1);
}
