//! Kernels and images: where they come from, what is refused, what stays.

use e2e::{TestEnv, finish};
use std::fs;
use std::process::Command;

#[test]
fn kernels_are_listed_imported_chosen_and_removed() {
    let env = TestEnv::new();
    let kernels = env.json(&["kernel", "ls"]);
    let pulled = kernels
        .as_array()
        .unwrap()
        .iter()
        .find(|k| k["is_default"] == true)
        .unwrap()
        .clone();
    let name = pulled["name"].as_str().unwrap();
    assert_eq!(
        env.json(&["kernel", "inspect", name])["digest"],
        pulled["digest"]
    );

    // A store of its own, so that the shared one keeps its default.
    let own = TestEnv::bare();
    let vmlinux = pulled["path"].as_str().unwrap();
    own.ok(&["kernel", "import", "--name", "mine", vmlinux]);
    own.ok(&["kernel", "default", "mine"]);
    assert_eq!(
        own.json(&["kernel", "inspect", "mine"])["digest"],
        pulled["digest"]
    );
    own.ok(&["kernel", "rm", "--yes", "mine"]);
    own.fails(3, &["kernel", "inspect", "mine"]);

    let text = own.join("text");
    fs::write(&text, "not a kernel").unwrap();
    let stderr = own.fails(
        2,
        &["kernel", "import", "--name", "bad", text.to_str().unwrap()],
    );
    assert!(stderr.contains("ELF"), "{stderr}");
    assert_eq!(own.json(&["kernel", "ls"]), serde_json::json!([]));
}

#[test]
fn an_image_built_twice_has_one_digest() {
    // In a store of its own: the shared one may be older than the archive is now.
    let own = TestEnv::bare();
    own.ok(&["image", "build", "debian", "--tag", "one"]);
    own.ok(&["image", "build", "debian", "--tag", "two"]);
    let first = own.json(&["image", "inspect", "one"]);
    assert_eq!(
        first["digest"],
        own.json(&["image", "inspect", "two"])["digest"]
    );
    own.ok(&["image", "rm", "--yes", "one"]);
    own.ok(&["image", "rm", "--yes", "two"]);
    assert_eq!(own.json(&["image", "ls"]), serde_json::json!([]));
}

#[test]
fn a_tar_becomes_an_image_that_boots_and_hostile_ones_are_refused() {
    let env = TestEnv::new();
    let root = env.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|p| fs::exists(p).unwrap());
    fs::copy(busybox.unwrap(), root.join("bin/busybox")).unwrap();
    let tar = env.join("tiny.tar");
    let made = finish(
        Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&tar)
            .arg("."),
    );
    assert_eq!(made.code, 0, "{made:#?}");
    env.ok(&[
        "image",
        "import",
        "--tag",
        "tiny-e2e",
        tar.to_str().unwrap(),
    ]);
    let out = env.ok(&["run", "tiny-e2e", "--", "/bin/busybox", "uname"]);
    assert_eq!(out, "Linux\n");
    env.ok(&["image", "rm", "--yes", "tiny-e2e"]);

    let before = env.json(&["image", "ls"]);
    let evil = env.join("evil.tar");
    let made = finish(
        Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["--transform", "s,^bin,../../evil,", "-P", "-cf"])
            .arg(&evil)
            .arg("bin/busybox"),
    );
    assert_eq!(made.code, 0, "{made:#?}");
    let stderr = env.fails(
        2,
        &["image", "import", "--tag", "evil", evil.to_str().unwrap()],
    );
    assert!(stderr.contains(".."), "{stderr}");
    let whole = fs::read(&tar).unwrap();
    fs::write(env.join("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    env.fails(
        2,
        &[
            "image",
            "import",
            "--tag",
            "cut",
            env.join("cut.tar").to_str().unwrap(),
        ],
    );
    assert_eq!(env.json(&["image", "ls"]), before);
    env.assert_nothing_left();
}
