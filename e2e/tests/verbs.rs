//! Everyday verbs on VMs that are kept.

use e2e::TestEnv;

#[test]
fn a_vm_is_renamed_resized_and_restarted_with_its_disk() {
    let env = TestEnv::new();
    env.vm("old");
    env.sh("old", "echo kept > /root/file");
    env.ok(&["vm", "rename", "old", "new"]);
    env.fails(3, &["vm", "inspect", "old"]);
    assert_eq!(env.sh("new", "hostname"), "old");
    env.ok(&["vm", "set", "new", "--cpus", "2", "--label", "team=blue"]);
    assert_eq!(env.sh("new", "nproc"), "1");
    let view = env.json(&["vm", "inspect", "new"]);
    assert_eq!(view["needs_restart"], true, "{view}");

    env.ok(&["vm", "restart", "new"]);
    assert_eq!(
        env.sh("new", "hostname; nproc; cat /root/file"),
        "new\n2\nkept"
    );
    assert_eq!(
        env.ok(&["ps", "-q", "--filter", "label=team=blue"]),
        view["id"].as_str().unwrap().to_owned() + "\n"
    );
}

#[test]
fn prune_removes_what_is_over_and_nothing_else() {
    let env = TestEnv::new();
    env.vm("runs");
    env.vm("over");
    env.ok(&["vm", "create", "fresh"]);
    env.ok(&["vm", "stop", "over"]);
    env.fails(7, &["vm", "prune"]);
    assert_eq!(env.ok(&["vm", "prune", "--dry-run"]), "over\n");
    assert_eq!(env.ok(&["vm", "prune", "--yes"]), "over\n");
    assert_eq!(env.ok(&["vm", "prune", "--yes"]), "");
    assert_eq!(
        env.ok(&["vm", "ls", "--format", "{{.name}}"]),
        "runs\nfresh\n"
    );
    assert_eq!(env.sh("runs", "echo yes"), "yes");
    env.ok(&["vm", "rm", "-f", "runs", "fresh"]);
    env.assert_nothing_left();
}
