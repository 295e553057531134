//! ssh: by our command and by the user's own client, to the right VM only.

use e2e::{TestEnv, finish};
use std::fs;
use std::process::Command;

#[test]
fn ssh_reaches_a_vm_by_our_command_and_by_a_plain_client() {
    let env = TestEnv::new();
    env.vm("dev");
    let out = env.ok(&["ssh", "dev", "hostname; id -un"]);
    assert_eq!(out, "dev\nroot\n");
    assert_eq!(env.run(&["ssh", "dev", "exit 9"]).code, 9);

    let config = env.ok(&["ssh-config"]);
    let file = env.join("ssh_config");
    fs::write(&file, config).unwrap();
    let plain = |command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.env_clear().envs(
            env.banger(&[])
                .get_envs()
                .filter_map(|(k, v)| Some((k, v?))),
        );
        finish(
            ssh.arg("-F")
                .arg(&file)
                .args(["-o", "BatchMode=yes", "root@dev.vm", command]),
        )
    };
    let outcome = plain("hostname");
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "dev\n"),
        "{outcome:#?}"
    );

    // Another VM under the same name has another key, which is pinned anew ...
    env.ok(&["vm", "rm", "--force", "dev"]);
    env.vm("dev");
    assert_eq!(env.ok(&["ssh", "dev", "hostname"]), "dev\n");

    // ... but a key that is not the pinned one is refused, by name.
    let known = env.join("state/ssh/known_hosts");
    let other = env.join("other");
    let made = finish(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&other),
    );
    assert_eq!(made.code, 0, "{made:#?}");
    let key = fs::read_to_string(env.join("other.pub")).unwrap();
    fs::write(&known, format!("dev.vm {key}")).unwrap();
    let outcome = plain("hostname");
    assert_eq!(outcome.code, 255, "{outcome:#?}");
    assert!(outcome.stderr.contains("dev.vm"), "{outcome:#?}");
}
