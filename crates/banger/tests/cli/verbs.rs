//! Verbs over many VMs: filters, and removing what is over.

use crate::fake::{Home, Request, vm};
use serde_json::{Value, json};

fn three() -> Value {
    let mut dev = vm("dev", "running");
    dev["labels"] = json!({"team": "blue"});
    let mut old = vm("old", "stopped");
    old["id"] = json!("vm-00000001");
    old["labels"] = json!({"team": "red"});
    let mut bad = vm("bad", "crashed");
    bad["id"] = json!("vm-00000002");
    let mut new = vm("new", "created");
    new["id"] = json!("vm-00000003");
    json!([dev, old, bad, new])
}

fn vms(request: Request) {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/vms") => request.json(&three()),
        ("DELETE", "/v1/vms/vm-00000001?force=false") => request.json(&three()[1]),
        ("DELETE", "/v1/vms/vm-00000002?force=false") => request.problem(
            409,
            &json!({"code": "conflict", "message": "remove VM \"bad\": it is running"}),
        ),
        _ => request.problem(404, &json!({"code": "not_found", "message": "what?"})),
    }
}

#[test]
fn filters_are_anded_and_an_unknown_one_is_told_what_there_is() {
    let home = Home::serve(vms);
    let names = |args: &[&str]| {
        let all = [&["vm", "ls", "--format", "{{.name}}"], args].concat();
        let shown = home.run(&all);
        assert_eq!(shown.code, 0, "{shown:?}");
        shown.stdout.replace('\n', " ").trim().to_owned()
    };
    assert_eq!(names(&[]), "dev old bad new");
    assert_eq!(names(&["--filter", "label=team"]), "dev old");
    assert_eq!(
        names(&["--filter", "label=team", "--filter", "state=stopped"]),
        "old"
    );
    assert_eq!(names(&["--filter", "label=team=blue"]), "dev");
    assert_eq!(names(&["--filter", "name=*e?"]), "dev new");
    assert_eq!(
        names(&["--filter", "image=debian", "--filter", "name=x*"]),
        ""
    );
    let ps = home.run(&["ps", "--filter", "state=crashed", "--format", "{{.name}}"]);
    assert_eq!(ps.stdout, "bad\n");
    for wrong in ["colour=red", "state=asleep", "label"] {
        let refused = home.run(&["vm", "ls", "--filter", wrong]);
        assert_eq!(refused.code, 2, "{refused:?}");
    }
    let refused = home.run(&["ps", "--filter", "colour=red"]);
    assert!(refused.stderr.contains("label=KEY"), "{refused:?}");
}

#[test]
fn prune_asks_says_what_it_freed_and_leaves_what_runs_again() {
    let home = Home::serve(vms);
    let refused = home.run(&["vm", "prune"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (7, ""));
    assert!(
        refused
            .stderr
            .contains("remove 2 VMs with 2 MiB on disk: old, bad"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("hint:"), "{refused:?}");

    let looked = home.run(&["vm", "prune", "--dry-run"]);
    assert_eq!((looked.code, looked.stdout.as_str()), (0, "old\nbad\n"));
    assert!(
        looked.stderr.contains("would remove 2 VMs, 2 MiB freed"),
        "{looked:?}"
    );
    assert!(!home.seen().iter().any(|line| line.starts_with("DELETE")));

    let filtered = [
        "vm",
        "prune",
        "--filter",
        "label=team=red",
        "--yes",
        "--json",
    ];
    let pruned: Value = serde_json::from_str(&home.run(&filtered).stdout).unwrap();
    assert_eq!(pruned["removed"][0]["name"], "old");
    assert_eq!(pruned["freed"], 1 << 20);

    // One that was started in between is not killed; the others are removed all the same.
    let partly = home.run(&["vm", "prune", "-y"]);
    assert_eq!((partly.code, partly.stdout.as_str()), (4, "old\n"));
    assert!(partly.stderr.contains("it is running"), "{partly:?}");
}
