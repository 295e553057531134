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

    // ... but a guest that shows another key is refused, by name.
    env.sh(
        "dev",
        "ssh-keygen -q -t ed25519 -N '' -f /root/other && mv /usr/sbin/sshd /usr/sbin/sshd.real && \
         printf '#!/bin/sh\nexec /usr/sbin/sshd.real -i -o UsePAM=no -o HostKey=/root/other\n' \
         > /usr/sbin/sshd && chmod 755 /usr/sbin/sshd",
    );
    for outcome in [plain("hostname"), env.run(&["ssh", "dev", "hostname"])] {
        assert_eq!(outcome.code, 255, "{outcome:#?}");
        assert!(outcome.stderr.contains("dev.vm"), "{outcome:#?}");
        assert_eq!(outcome.stdout, "");
    }
}
