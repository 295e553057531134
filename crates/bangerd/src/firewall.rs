//! Whether another firewall of the host drops what VMs send outward.
//!
//! Ours lets guests' packets out, but every chain of everybody is passed: one that drops wins.
//! Docker, ufw and firewalld each drop what is forwarded and not theirs. banger changes none of
//! them; it says which rule the owner may add.

use banger_api::{Check, CheckStatus};
use banger_priv::{OtherChain, Others};
use std::path::Path;

/// What tells Docker and ufw apart: their tables have the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signs {
    /// Docker's bridge is there.
    pub(crate) docker: bool,
    /// ufw is switched on.
    pub(crate) ufw: bool,
}

impl Signs {
    /// Looks at the host.
    pub(crate) fn look() -> Self {
        let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
        Self {
            docker: Path::new("/sys/class/net/docker0").exists(),
            ufw: ufw.lines().any(|line| line.trim() == "ENABLED=yes"),
        }
    }
}

/// Judges what the helper found beside our own rules.
pub(crate) fn judge(others: &Others, bridge: &str, signs: Signs) -> Check {
    let in_the_way: Vec<&OtherChain> = others
        .chains
        .iter()
        .filter(|chain| chain.drops || chain.table == FIREWALLD)
        .collect();
    let name = "network.firewall".to_owned();
    let ok = |message: &str| Check {
        name: name.clone(),
        status: CheckStatus::Ok,
        message: message.to_owned(),
        fix: None,
    };
    let Some(first) = in_the_way.first() else {
        return ok("no other firewall drops what is forwarded");
    };
    if others.name_bridge {
        return ok(&format!(
            "another firewall drops what is forwarded, but has a rule for {bridge}"
        ));
    }
    let (who, fix) = remedy(first, bridge, signs);
    Check {
        name,
        status: CheckStatus::Warning,
        message: format!(
            "{who} drops what VMs send outward (chain {} of table {})",
            first.name, first.table
        ),
        fix: Some(fix),
    }
}

const FIREWALLD: &str = "firewalld";

fn remedy(chain: &OtherChain, bridge: &str, signs: Signs) -> (&'static str, String) {
    if chain.table == FIREWALLD {
        let fix = format!(
            "sudo firewall-cmd --permanent --zone=trusted --add-interface={bridge} && sudo firewall-cmd --reload"
        );
        return ("firewalld", fix);
    }
    if signs.ufw {
        return ("ufw", format!("sudo ufw route allow in on {bridge}"));
    }
    if signs.docker {
        let fix = format!(
            "sudo iptables -I DOCKER-USER -i {bridge} -j ACCEPT && sudo iptables -I DOCKER-USER \
             -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        );
        return ("Docker", fix);
    }
    let OtherChain { table, name, .. } = chain;
    let fix = format!(
        "sudo nft insert rule ip {table} {name} iifname {bridge} accept && sudo nft insert rule \
         ip {table} {name} oifname {bridge} ct state established,related accept"
    );
    ("another firewall", fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Signs = Signs {
        docker: false,
        ufw: false,
    };

    fn others(table: &str, name: &str, drops: bool) -> Others {
        Others {
            chains: vec![OtherChain {
                table: table.into(),
                name: name.into(),
                drops,
            }],
            name_bridge: false,
        }
    }

    fn found(others: &Others, signs: Signs) -> (CheckStatus, String) {
        let check = judge(others, "br-fc", signs);
        (check.status, check.fix.unwrap_or(check.message))
    }

    #[test]
    fn each_firewall_is_told_with_its_own_fix() {
        let filter = others("filter", "FORWARD", true);
        let docker = Signs {
            docker: true,
            ..NONE
        };
        let ufw = Signs {
            ufw: true,
            docker: true,
        };
        for (others, signs, fix) in [
            (&filter, docker, "DOCKER-USER -i br-fc"),
            (&filter, ufw, "ufw route allow in on br-fc"),
            (&filter, NONE, "nft insert rule ip filter FORWARD"),
            (
                &others("firewalld", "filter_FORWARD", false),
                NONE,
                "--add-interface=br-fc",
            ),
        ] {
            let (status, text) = found(others, signs);
            assert_eq!(status, CheckStatus::Warning);
            assert!(text.contains(fix), "{text}");
        }
    }

    #[test]
    fn chains_that_let_pass_and_rules_for_the_bridge_are_fine() {
        assert_eq!(found(&Others::default(), NONE).0, CheckStatus::Ok);
        let open = others("filter", "FORWARD", false);
        assert_eq!(found(&open, NONE).0, CheckStatus::Ok);
        let named = Others {
            name_bridge: true,
            ..others("filter", "FORWARD", true)
        };
        let (status, text) = found(&named, NONE);
        assert_eq!(status, CheckStatus::Ok);
        assert!(text.contains("br-fc"), "{text}");
    }
}
