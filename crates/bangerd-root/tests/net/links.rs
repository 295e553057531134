//! What the network verbs make, keep and take away.

use crate::host::{Host, bridge, create_tap, ensure_bridge, needs_rules, reclaim, vm};
use banger_priv::{BridgeUp, OtherChain, Others, RefusalKind, Reply, Request, Tap};
use std::time::{Duration, Instant};

#[test]
fn net_a_vm_gets_its_network_and_everything_is_taken_back() {
    needs_rules!();
    let mut host = Host::new();
    host.run("ip link add up0 type veth peer name far0");
    host.run("ip address add 192.168.77.2/24 dev up0");
    host.run("ip link set up0 up");
    host.run("ip link set far0 up");
    host.run("ip route add default via 192.168.77.1");
    let before = host.state();

    let is_new = |is_new| Reply::Bridge(BridgeUp { is_new });
    assert_eq!(host.done(&bridge()), is_new(true));
    let made = host.state();
    assert_eq!(host.done(&bridge()), is_new(false));
    host.state().assert_is(&made, "state");

    let tap = Reply::Tap(Tap {
        name: "tap-00000007".into(),
        mac: "06:fc:ac:1e:00:02".into(),
    });
    assert_eq!(host.done(&create_tap(&vm(7), 2)), tap);
    let with_tap = host.state();
    assert_eq!(host.done(&create_tap(&vm(7), 2)), tap);
    host.state().assert_is(&with_tap, "state");
    let link = host.run("ip -d link show tap-00000007");
    for fact in [
        "master br-fc",
        "isolated on",
        "learning off",
        "locked on",
        "flood off",
        "user 1900000000",
        "group 1900000000",
        "alias banger:banger-vm-00000007-1",
        "persist on",
        ",UP",
    ] {
        assert!(link.contains(fact), "{fact}: {link}");
    }
    let rules = host.run("nft list ruleset");
    assert!(
        rules.contains("\"tap-00000007\" . 06:fc:ac:1e:00:02 . 172.30.0.2"),
        "{rules}"
    );
    let is_forwarding = || host.run("sysctl -n net.ipv4.conf.up0.forwarding").trim() == "1";
    assert!(!is_forwarding());

    for _ in 0..2 {
        host.done(&Request::EnsureNat(vm(7)));
    }
    let rules = host.run("nft list ruleset");
    for set in ["egress", "nat"] {
        let set = host.run(&format!("nft list set inet banger {set}"));
        assert!(set.contains("172.30.0.2"), "{set} {rules}");
    }
    assert!(is_forwarding() && host.run("sysctl -n net.ipv4.ip_forward").trim() == "0");
    assert!(host.run("nft list set inet banger uplinks").contains("up0"));
    assert_eq!(host.status().vms[0].address, Some([172, 30, 0, 2].into()));

    host.done(&Request::ClearNat(vm(7)));
    assert!(!is_forwarding());
    host.state().assert_is(&with_tap, "state");
    host.done(&Request::EnsureNat(vm(7)));
    for _ in 0..2 {
        host.done(&Request::RemoveTap(vm(7)));
        host.state().assert_is(&made, "state");
    }
    let (said, is_clean) = host.tear_down();
    assert!(is_clean && said.contains("removed br-fc"), "{said}");
    host.state().assert_is(&before, "state");
}

#[test]
fn net_what_was_made_is_known_to_the_next_helper() {
    needs_rules!();
    let mut host = Host::new();
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
    host.done(&Request::EnsureNat(vm(7)));
    let before = host.state();
    host.kill();
    host.start();
    assert_eq!(host.status().vms[0].vm, vm(7));
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
    host.state().assert_is(&before, "state");
    host.done(&reclaim(&[vm(7)]));
    host.state().assert_is(&before, "state");
    let removed = host.done(&reclaim(&[]));
    assert_eq!(
        removed,
        Reply::Reclaimed(vec!["tap of vm-00000007-1".into()])
    );
    assert!(!host.run("ip link").contains("tap-"));
}

#[test]
fn net_a9_flushed_rules_are_back_within_a_second_and_told() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
    host.done(&Request::EnsureNat(vm(7)));
    let rules = || {
        let text = host.run("nft -s list ruleset");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = rules();
    for harm in [
        "nft flush ruleset",
        "nft delete table bridge banger",
        "nft flush chain inet banger outward",
        "nft flush set bridge banger guests",
    ] {
        host.run(harm);
        let harmed = Instant::now();
        while rules() != before {
            let waited = harmed.elapsed();
            assert!(waited < Duration::from_secs(20), "{harm}: {}", host.log());
        }
        println!("{harm}: restored after {:?}", harmed.elapsed());
    }
    assert!(host.log().contains("restored"), "{}", host.log());
    assert!(host.run("ip link show br-fc").contains(",UP"));
}

#[test]
fn net_who_else_drops_what_is_forwarded_is_told() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    assert_eq!(host.status().others, Some(Others::default()));
    for line in [
        "nft add table ip filter",
        "nft add chain ip filter FORWARD {type filter hook forward priority 0; policy drop;}",
        "nft add chain ip filter INPUT {type filter hook input priority 0; policy drop;}",
        "nft add chain ip filter DOCKER-USER",
        "nft add table ip6 filter",
        "nft add chain ip6 filter FORWARD {type filter hook forward priority 0; policy drop;}",
        "nft add table inet firewalld",
        "nft add chain inet firewalld filter_FORWARD {type filter hook forward priority 10;}",
    ] {
        host.run(line);
    }
    let others = host.status().others.unwrap();
    let told = |chain: &OtherChain| format!("{} {} {}", chain.table, chain.name, chain.drops);
    let told: Vec<_> = others.chains.iter().map(told).collect();
    assert_eq!(
        told,
        ["filter FORWARD true", "firewalld filter_FORWARD false"]
    );
    assert!(!others.name_bridge);
    host.run("nft add rule ip filter DOCKER-USER iifname br-fc accept");
    assert!(host.status().others.unwrap().name_bridge);
}

#[test]
fn net_c11_a_lost_ledger_is_made_up_for_by_marks() {
    needs_rules!();
    let mut host = Host::idle();
    let before = host.state();
    host.start();
    host.done(&bridge());
    for n in 2..5 {
        host.done(&create_tap(&vm(n.into()), n));
    }
    host.kill();
    std::fs::remove_dir_all(host.path("run")).unwrap();
    host.start();
    // One is still wanted: it stays, though nothing can be asked about it.
    host.done(&reclaim(&[vm(3)]));
    let links = host.run("ip -o link show");
    assert!(
        links.contains("tap-00000003") && !links.contains("tap-00000002"),
        "{links}"
    );
    assert_eq!(
        host.refusal(&Request::EnsureNat(vm(3))).kind,
        RefusalKind::Unknown
    );
    host.done(&bridge());
    host.done(&create_tap(&vm(3), 3));
    host.kill();
    std::fs::remove_dir_all(host.path("run")).unwrap();
    let (said, is_clean) = host.tear_down();
    assert!(is_clean, "{said}");
    std::fs::remove_dir_all(host.path("run")).unwrap();
    host.state().assert_is(&before, "state");
}

#[test]
fn net_an_unused_bridge_is_replaced_by_another() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.done(&ensure_bridge("br-fc-two", "172.30.0.1/25"));
    let links = host.run("ip -o link show");
    assert!(
        links.contains("br-fc-two") && links.contains("up-fc-two"),
        "{links}"
    );
    assert!(
        !links.contains("br-fc:") && !links.contains("up-fc:"),
        "{links}"
    );
    assert!(host.run("nft list ruleset").contains("\"br-fc-two\""));
    host.done(&ensure_bridge("br-fc-two", "172.31.0.1/24"));
    assert!(host.run("ip -o -4 address").contains("172.31.0.1/24"));
    let two = Request::CreateTap(banger_priv::CreateTap {
        vm: vm(1),
        address: [172, 31, 0, 2].into(),
    });
    host.done(&two);
    let refusal = host.refusal(&bridge());
    assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
}

#[test]
fn net_r29_the_same_tap_asked_for_at_once_is_made_once() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| host.done(&create_tap(&vm(7), 2)));
        }
        for n in 10..18 {
            let host = &host;
            // X7: of those who want one address, one gets it.
            scope.spawn(move || host.call(&create_tap(&vm(n), 9)).ok());
        }
    });
    let vms = host.status().vms;
    assert_eq!(vms.len(), 2, "{vms:?}");
    let links = host.run("ip -o link show");
    assert_eq!(links.matches(": tap-").count(), 2, "{links}");
}

#[test]
fn lab_names_of_vms_are_routed_by_systemd_resolved() {
    if std::env::var_os("BANGER_LAB").is_none() {
        println!("skipped: it changes the host's own resolver; BANGER_LAB says that this is a lab");
        return;
    }
    let mut host = Host::on_this_machine();
    host.done(&bridge());
    let route = Request::SyncResolverRouting(banger_priv::ResolverRouting { port: 8053 });
    for _ in 0..2 {
        host.done(&route);
    }
    let said = host.run("resolvectl status br-fc");
    for fact in ["172.30.0.1:8053", "~vm", "-DefaultRoute"] {
        assert!(said.contains(fact), "{fact}: {said}");
    }
    host.done(&Request::ClearResolverRouting {});
    assert!(!host.run("resolvectl status br-fc").contains("8053"));
    host.done(&route);
    let (said, is_clean) = host.tear_down();
    assert!(is_clean, "{said}");
    assert!(!host.run("resolvectl status").contains("~vm"));
}
