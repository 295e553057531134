//! What the network verbs refuse, and that nothing changes then.

use crate::host::{Host, bridge, create_tap, ensure_bridge, needs_rules, vm};
use banger_ids::VmRef;
use banger_priv::{RefusalKind, Request, ResolverRouting};

/// Asks for what must be refused as `kind`, with a word of why, and changes nothing.
fn refused(host: &Host, request: &Request, kind: RefusalKind, word: &str) {
    let ask = || {
        let refusal = host.refusal(request);
        assert_eq!(refusal.kind, kind, "{request:?}: {refusal}");
        assert!(refusal.message.contains(word), "{word}: {refusal}");
    };
    host.stays_through(ask, &format!("{request:?}"));
}

#[test]
fn net_ensure_bridge_refuses_links_that_are_not_ours() {
    let host = Host::new();
    host.run("ip link add br-fc-x type bridge");
    refused(
        &host,
        &ensure_bridge("br-fc-x", "172.30.0.1/24"),
        RefusalKind::Foreign,
        "br-fc-x",
    );
    // The name of its port, a mark on another kind of link, a mark of something else.
    host.run("ip link add up-fc type bridge");
    refused(&host, &bridge(), RefusalKind::Foreign, "up-fc");
    host.run("ip tuntap add dev br-fc-y mode tap");
    host.run("ip link set br-fc-y alias banger:bridge");
    refused(
        &host,
        &ensure_bridge("br-fc-y", "172.30.0.1/24"),
        RefusalKind::Foreign,
        "br-fc-y",
    );
    host.run("ip link set br-fc-x alias banger:bridges");
    refused(
        &host,
        &ensure_bridge("br-fc-x", "172.30.0.1/24"),
        RefusalKind::Foreign,
        "br-fc-x",
    );
    // With the hardware address that ours would have, but no record.
    host.run("ip link add br-fc-z address 06:fc:ac:1e:00:01 type bridge");
    refused(
        &host,
        &ensure_bridge("br-fc-z", "172.30.0.1/24"),
        RefusalKind::Foreign,
        "br-fc-z",
    );
    // N16.
    host.run("ip link set br-fc-x alias banger:bridge");
    host.run("ip address add 172.30.0.9/24 dev br-fc-x");
    refused(
        &host,
        &ensure_bridge("br-fc-x", "172.30.0.1/24"),
        RefusalKind::Exists,
        "172.30.0.9",
    );
}

#[test]
fn net_r3_r4_ensure_bridge_refuses_what_overlaps_the_host() {
    let host = Host::new();
    host.run("ip link add lan0 type bridge");
    host.run("ip address add 172.30.0.55/16 dev lan0");
    refused(
        &host,
        &bridge(),
        RefusalKind::Foreign,
        "172.30.0.55/16 of lan0",
    );
    host.run("ip address del 172.30.0.55/16 dev lan0");
    host.run("ip link set lan0 up");
    host.run("ip route add 172.30.0.128/25 dev lan0");
    refused(
        &host,
        &bridge(),
        RefusalKind::Foreign,
        "172.30.0.128/25 through lan0",
    );
    host.run("ip route del 172.30.0.128/25");
    host.run("ip route add blackhole 172.16.0.0/12 table 77");
    refused(&host, &bridge(), RefusalKind::Foreign, "172.16.0.0/12");
}

#[test]
fn net_taps_and_nat_are_refused_without_bridge_or_tap() {
    let host = Host::new();
    refused(
        &host,
        &create_tap(&vm(7), 2),
        RefusalKind::Unknown,
        "no bridge",
    );
    let routing = |port| Request::SyncResolverRouting(ResolverRouting { port });
    refused(&host, &routing(8053), RefusalKind::Unknown, "no bridge");
    refused(&host, &routing(53), RefusalKind::Invalid, "53");
    let clear = Request::ClearResolverRouting {};
    refused(&host, &clear, RefusalKind::Unknown, "no bridge");
    for request in [Request::EnsureNat(vm(7)), Request::ClearNat(vm(7))] {
        refused(&host, &request, RefusalKind::Unknown, "vm-00000007-1");
    }
    host.run("ip tuntap add dev tap-00000007 mode tap");
    refused(
        &host,
        &Request::RemoveTap(vm(7)),
        RefusalKind::Foreign,
        "tap-00000007",
    );
}

#[test]
fn net_create_tap_refuses_addresses_that_are_not_the_vms() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
    for last in [0, 1, 255] {
        refused(
            &host,
            &create_tap(&vm(8), last),
            RefusalKind::Invalid,
            "no guest's",
        );
    }
    let outside = Request::CreateTap(banger_priv::CreateTap {
        vm: vm(8),
        address: [172, 30, 1, 2].into(),
    });
    refused(&host, &outside, RefusalKind::Invalid, "no guest's");
    refused(
        &host,
        &create_tap(&vm(8), 2),
        RefusalKind::Exists,
        "vm-00000007-1",
    );
    refused(
        &host,
        &create_tap(&vm(7), 3),
        RefusalKind::Exists,
        "172.30.0.2",
    );
}

#[test]
fn net_r31_other_generations_are_refused() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
    for generation in [0, 2] {
        let other = VmRef {
            generation,
            ..vm(7)
        };
        refused(
            &host,
            &create_tap(&other, 2),
            RefusalKind::Exists,
            "vm-00000007-1",
        );
        refused(
            &host,
            &Request::EnsureNat(other.clone()),
            RefusalKind::Unknown,
            "",
        );
        refused(
            &host,
            &Request::ClearNat(other.clone()),
            RefusalKind::Unknown,
            "",
        );
        refused(
            &host,
            &Request::RemoveTap(other),
            RefusalKind::Foreign,
            "tap-00000007",
        );
    }
}

#[test]
fn net_r8_links_that_only_look_like_the_vms_tap_are_refused() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.run("ip tuntap add dev tap-00000007 mode tap");
    refused(
        &host,
        &create_tap(&vm(7), 2),
        RefusalKind::Foreign,
        "tap-00000007",
    );
    host.run("ip link set tap-00000007 alias banger:banger-vm-00000008-1");
    refused(
        &host,
        &create_tap(&vm(7), 2),
        RefusalKind::Foreign,
        "tap-00000007",
    );
    refused(
        &host,
        &Request::RemoveTap(vm(7)),
        RefusalKind::Foreign,
        "tap-00000007",
    );
    // Swapped after it was made.
    host.done(&create_tap(&vm(9), 9));
    host.run("ip link del tap-00000009");
    host.run("ip link add tap-00000009 type dummy");
    refused(
        &host,
        &Request::EnsureNat(vm(9)),
        RefusalKind::Foreign,
        "tap-00000009",
    );
    refused(
        &host,
        &Request::RemoveTap(vm(9)),
        RefusalKind::Foreign,
        "tap-00000009",
    );
    assert!(host.run("ip -o link").contains("tap-00000009"));
}

#[test]
fn net_a_bridge_that_was_swapped_is_not_used() {
    needs_rules!();
    let host = Host::new();
    host.done(&bridge());
    host.run("ip link del br-fc");
    refused(&host, &create_tap(&vm(7), 2), RefusalKind::Unknown, "gone");
    host.run("ip link add br-fc type bridge");
    refused(&host, &create_tap(&vm(7), 2), RefusalKind::Foreign, "br-fc");
    refused(&host, &bridge(), RefusalKind::Foreign, "br-fc");
    let route = Request::SyncResolverRouting(ResolverRouting { port: 8053 });
    refused(&host, &route, RefusalKind::Foreign, "br-fc");
    let clear = Request::ClearResolverRouting {};
    refused(&host, &clear, RefusalKind::Foreign, "br-fc");
    host.run("ip link del br-fc");
    host.done(&bridge());
    host.done(&create_tap(&vm(7), 2));
}
