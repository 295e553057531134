//! The rules against guests that lie. Every attack is shown to work without the rules first.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use banger_sys::conntrack::forget;
use banger_sys::nft::{Change, Family, Key, Nft, Set};

use crate::frame::{
    ARP, BROADCAST, IPV4, IPV6, Mac, VLAN, arp, contains, echo_request, ethernet, ipv4, kind_of,
    router_advertisement, source_of, udp,
};
use crate::guest::{BRIDGE, GATEWAY, GATEWAY_MAC, Guest, Host, UPLINK, WORLD};
use crate::{in_namespace, load};

const TEMPLATE: &str = include_str!("../../data/rules.nft");

/// Loads the rules; false (and says why) where this machine cannot have them.
fn load_rules() -> bool {
    let probe = "add table bridge probe\nadd chain bridge probe c\nadd rule bridge probe c meta ibrname x drop\ndelete table bridge probe";
    match load(probe) {
        None => false,
        Some(Err(complaint)) => {
            eprintln!("skipped: this kernel cannot match by the bridge's name: {complaint}");
            false
        }
        Some(Ok(())) => {
            load(&TEMPLATE.replace("@BRIDGE@", BRIDGE))
                .unwrap()
                .unwrap();
            true
        }
    }
}

fn set(name: &str) -> Set<'_> {
    Set {
        family: if name == "guests" {
            Family::Bridge
        } else {
            Family::Inet
        },
        table: "banger",
        name,
    }
}

fn admit(nft: &mut Nft, guest: &Guest) {
    let address = Key::default().address(guest.address);
    let place = Key::default().link(&guest.name).unwrap();
    nft.apply(&[
        Change::Add(set("guests"), &place.mac(guest.mac).address(guest.address)),
        Change::Add(set("egress"), &address),
        Change::Add(set("nat"), &address),
    ])
    .unwrap();
}

/// Two guests at ports that the bridge does not confine: what stops them is the rules alone.
struct Scene {
    host: Host,
    nft: Nft,
    a: Guest,
    b: Guest,
    services: UdpSocket,
}

impl Scene {
    fn new() -> Self {
        let mut host = Host::new();
        let (a, b) = (host.guest(2, false), host.guest(3, false));
        let services = UdpSocket::bind("0.0.0.0:5000").unwrap();
        services.set_nonblocking(true).unwrap();
        Self {
            host,
            nft: Nft::open().unwrap(),
            a,
            b,
            services,
        }
    }

    fn admit_all(&mut self) {
        admit(&mut self.nft, &self.a);
        admit(&mut self.nft, &self.b);
    }

    /// Whether the host's service got a datagram; takes it away.
    fn service_was_reached(&self) -> bool {
        match self.services.recv(&mut [0; 64]) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    }
}

/// Shows that `attack` succeeds without the rules and not under them.
fn stops(name: &'static str, attack: impl Fn(&Scene) -> bool + Send + 'static) {
    in_namespace(move || {
        let mut scene = Scene::new();
        assert!(
            attack(&scene),
            "{name}: harmless anyway, so this says nothing"
        );
        if load_rules() {
            scene.admit_all();
            assert!(!attack(&scene), "{name}: not stopped");
        }
    });
}

/// `from` sends a UDP datagram into the world under a name of its choice; whether it gets there.
fn leaves(scene: &Scene, mac: Mac, address: Ipv4Addr, to: Ipv4Addr) -> bool {
    let packet = ipv4(address, to, 17, &udp(4000, 7, b"out"));
    scene.a.send(&ethernet(GATEWAY_MAC, mac, IPV4, &packet));
    scene.host.uplink.got(b"out")
}

#[test]
fn net_filter_stops_forged_hardware_addresses() {
    stops("another guest's MAC", |s| {
        leaves(s, s.b.mac, s.a.address, WORLD)
    });
    stops("an unknown MAC", |s| {
        leaves(s, [2, 9, 9, 9, 9, 9], s.a.address, WORLD)
    });
}

#[test]
fn net_filter_stops_forged_sources() {
    stops("another guest", |s| leaves(s, s.a.mac, s.b.address, WORLD));
    stops("another guest, MAC too", |s| {
        leaves(s, s.b.mac, s.b.address, WORLD)
    });
    stops("nobody of this subnet", |s| {
        leaves(s, s.a.mac, [172, 16, 0, 77].into(), WORLD)
    });
    stops("a stranger", |s| {
        leaves(s, s.a.mac, [198, 51, 100, 7].into(), WORLD)
    });
    stops("metadata as destination", |s| {
        leaves(s, s.a.mac, s.a.address, [169, 254, 169, 254].into())
    });
}

#[test]
fn net_filter_stops_forged_arp() {
    for operation in [1, 2] {
        stops("the gateway's address", move |s| {
            let lie = arp(operation, (s.a.mac, GATEWAY), (s.b.mac, s.b.address));
            s.a.send(&ethernet(s.b.mac, s.a.mac, ARP, &lie));
            s.b.received().iter().any(|frame| kind_of(frame) == ARP)
        });
        stops("an address of nobody", move |s| {
            let lie = arp(
                operation,
                (s.a.mac, [172, 16, 0, 50].into()),
                ([0; 6], GATEWAY),
            );
            s.a.send(&ethernet(BROADCAST, s.a.mac, ARP, &lie));
            s.b.received().iter().any(|frame| kind_of(frame) == ARP)
        });
        stops("another sender within", move |s| {
            let lie = arp(operation, (s.b.mac, s.a.address), ([0; 6], GATEWAY));
            s.a.send(&ethernet(BROADCAST, s.a.mac, ARP, &lie));
            s.b.received().iter().any(|frame| kind_of(frame) == ARP)
        });
    }
    stops("the host believes it", |s| {
        let lie = arp(1, (s.a.mac, [172, 16, 0, 50].into()), ([0; 6], GATEWAY));
        s.a.send(&ethernet(BROADCAST, s.a.mac, ARP, &lie));
        // Answered: the host has learned the sender.
        s.a.received().iter().any(|frame| kind_of(frame) == ARP)
    });
}

#[test]
fn net_filter_stops_guest_to_guest() {
    stops("by the bridge", |s| {
        let packet = ipv4(s.a.address, s.b.address, 17, &udp(4000, 9, b"hello"));
        s.a.send(&ethernet(s.b.mac, s.a.mac, IPV4, &packet));
        s.b.got(b"hello")
    });
    stops("by broadcast", |s| {
        let packet = ipv4(s.a.address, [255; 4].into(), 17, &udp(4000, 9, b"hello"));
        s.a.send(&ethernet(BROADCAST, s.a.mac, IPV4, &packet));
        s.b.got(b"hello")
    });
    stops("by the gateway", |s| {
        s.a.send_udp(s.b.address, 9, b"hello");
        s.b.got(b"hello")
    });
    stops("by the gateway, echo", |s| {
        let packet = ipv4(s.a.address, s.b.address, 1, &echo_request());
        s.a.send(&ethernet(GATEWAY_MAC, s.a.mac, IPV4, &packet));
        s.b.received().iter().any(|frame| kind_of(frame) == IPV4)
    });
    stops("by IPv6", |s| {
        let frame = ethernet(s.b.mac, s.a.mac, IPV6, &router_advertisement(s.a.mac));
        s.a.send(&frame);
        s.b.received().contains(&frame)
    });
    stops("by a VLAN tag", |s| {
        let packet = ipv4(s.b.address, s.b.address, 17, &udp(4000, 9, b"hello"));
        let tagged = [&[0, 5][..], &IPV4.to_be_bytes(), &packet].concat();
        s.a.send(&ethernet(s.b.mac, s.a.mac, VLAN, &tagged));
        s.b.got(b"hello")
    });
    stops("as a DHCP server", |s| {
        let packet = ipv4(s.a.address, [255; 4].into(), 17, &udp(67, 68, b"offer"));
        s.a.send(&ethernet(BROADCAST, s.a.mac, IPV4, &packet));
        s.b.got(b"offer")
    });
    for (address, mac, port) in [
        ([224, 0, 0, 251], [1, 0, 0x5e, 0, 0, 251], 5353),
        ([224, 0, 0, 252], [1, 0, 0x5e, 0, 0, 252], 5355),
        ([172, 16, 0, 255], BROADCAST, 137),
    ] {
        stops("by calling names", move |s| {
            let packet = ipv4(s.a.address, address.into(), 17, &udp(port, port, b"wpad"));
            s.a.send(&ethernet(mac, s.a.mac, IPV4, &packet));
            s.b.got(b"wpad")
        });
    }
}

#[test]
fn net_filter_stops_guest_to_host() {
    for to in [GATEWAY, UPLINK, [172, 16, 0, 255].into()] {
        stops("a service of the host", move |s| {
            s.a.send_udp(to, 5000, b"hello");
            s.service_was_reached()
        });
    }
    stops("an echo of the gateway", |s| {
        let packet = ipv4(s.a.address, GATEWAY, 1, &echo_request());
        s.a.send(&ethernet(GATEWAY_MAC, s.a.mac, IPV4, &packet));
        s.a.received().iter().any(|frame| kind_of(frame) == IPV4)
    });
    stops("a router advertisement", |s| {
        // The bridge hears IPv6 only once the kernel's worker has seen its carrier.
        let deadline = Instant::now() + Duration::from_secs(20);
        while ip(&["-6", "address", "show", "dev", BRIDGE]).is_empty() {
            assert!(Instant::now() < deadline, "the bridge has no IPv6");
        }
        let advertisement = router_advertisement(s.a.mac);
        let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
        s.a.send(&ethernet(all_nodes, s.a.mac, IPV6, &advertisement));
        let found = default_route_v6();
        if found {
            assert!(ip(&["-6", "route", "flush", "default"]).is_empty());
        }
        found
    });
}

#[test]
fn net_filter_stops_others_from_the_world() {
    stops("to a guest, unasked", |s| {
        let packet = ipv4(WORLD, s.a.address, 17, &udp(7, 4000, b"scan"));
        s.host
            .uplink
            .send(&ethernet(s.uplink_mac(), s.host.uplink.mac, IPV4, &packet));
        s.a.got(b"scan")
    });
    // The uplink forwards for the guests' sake only.
    in_namespace(|| {
        let mut scene = Scene::new();
        if !load_rules() {
            return;
        }
        let lan = scene
            .host
            .links
            .create_bridge("lan0", [2, 0, 0, 0, 9, 9])
            .unwrap();
        scene
            .host
            .links
            .add_address(lan, [10, 7, 0, 1].into(), 24)
            .unwrap();
        let neighbour = scene.host.guest(9, false);
        scene
            .host
            .links
            .set_master(neighbour.index, Some(lan))
            .unwrap();
        scene.host.links.set_up(lan).unwrap();
        let other: Ipv4Addr = [10, 7, 0, 9].into();
        scene
            .host
            .links
            .add_neighbour(lan, other, neighbour.mac)
            .unwrap();
        let through = |scene: &Scene| {
            let packet = ipv4(WORLD, other, 17, &udp(7, 9, b"through"));
            let uplink = &scene.host.uplink;
            uplink.send(&ethernet(scene.uplink_mac(), uplink.mac, IPV4, &packet));
            neighbour.got(b"through")
        };
        assert!(
            through(&scene),
            "without the element others' forwarding is not touched"
        );
        let key = Key::default().link(&scene.host.uplink.name).unwrap();
        scene
            .nft
            .apply(&[Change::Add(set("uplinks"), &key)])
            .unwrap();
        assert!(!through(&scene));
        // Published ports of containers are.
        load(
            "add table ip other\nadd chain ip other p { type nat hook prerouting priority -100; }\n\
              add rule ip other p udp dport 90 dnat to 10.7.0.9:9",
        )
        .unwrap()
        .unwrap();
        let packet = ipv4(WORLD, UPLINK, 17, &udp(7, 90, b"published"));
        let uplink = &scene.host.uplink;
        uplink.send(&ethernet(scene.uplink_mac(), uplink.mac, IPV4, &packet));
        assert!(neighbour.got(b"published"));
    });
}

#[test]
fn net_filter_lets_good_traffic_pass_as_the_host() {
    in_namespace(|| {
        let mut scene = Scene::new();
        if !load_rules() {
            return;
        }
        let ask = |scene: &Scene| {
            scene.a.send_udp(WORLD, 7, b"question");
            scene
                .host
                .uplink
                .received()
                .into_iter()
                .find(|frame| contains(frame, b"question"))
        };
        assert_eq!(ask(&scene), None, "no element, no way out");
        scene.admit_all();
        let question = ask(&scene).expect("out");
        assert_eq!(source_of(&question), UPLINK);
        scene.host.answer(&question, b"answer");
        assert!(scene.a.got(b"answer"));
        assert!(
            scene
                .b
                .received()
                .iter()
                .all(|frame| kind_of(frame) != IPV4)
        );

        // The guest finds its gateway.
        let who = arp(1, (scene.a.mac, scene.a.address), ([0; 6], GATEWAY));
        scene.a.send(&ethernet(BROADCAST, scene.a.mac, ARP, &who));
        assert!(scene.a.received().iter().any(|frame| kind_of(frame) == ARP));

        // The host speaks to a guest and is answered.
        scene
            .services
            .send_to(b"host asks", (scene.a.address, 9))
            .unwrap();
        assert!(scene.a.got(b"host asks"));
        let packet = ipv4(
            scene.a.address,
            GATEWAY,
            17,
            &udp(9, 5000, b"guest answers"),
        );
        scene
            .a
            .send(&ethernet(GATEWAY_MAC, scene.a.mac, IPV4, &packet));
        assert!(scene.service_was_reached());

        // The rules loaded once more change nothing; without its egress a guest is cut off, in
        // connections that exist too.
        let rules = scene.nft.rule_count(Family::Inet, "banger").unwrap();
        assert!(load_rules());
        assert_eq!(scene.nft.rule_count(Family::Inet, "banger").unwrap(), rules);
        let question = ask(&scene).expect("out again");
        let key = Key::default().address(scene.a.address);
        scene
            .nft
            .apply(&[Change::Remove(set("egress"), &key)])
            .unwrap();
        assert_eq!(ask(&scene), None);
        scene.host.answer(&question, b"late");
        assert!(!scene.a.got(b"late"));
    });
}

#[test]
fn net_filter_bounds_the_connections_of_a_guest() {
    in_namespace(|| {
        let mut scene = Scene::new();
        if !load_rules() {
            return;
        }
        let few = TEMPLATE.replace("@BRIDGE@", BRIDGE).replace("4096", "20");
        load(&few).unwrap().unwrap();
        scene.admit_all();
        let open = |guest: &Guest, count: u16| {
            for port in 1..=count {
                guest.send_udp(WORLD, port, b"flow");
            }
            let frames = scene.host.uplink.received();
            frames
                .into_iter()
                .filter(|frame| contains(frame, b"flow"))
                .collect::<Vec<_>>()
        };
        let opened = open(&scene.a, 50);
        assert_eq!(opened.len(), 20);
        assert_eq!(open(&scene.b, 10).len(), 10, "others have their own count");
        for question in &opened {
            scene.host.answer(question, b"answer");
        }
        assert_eq!(open(&scene.a, 50).len(), 20, "what is open goes on");
        assert_eq!(forget(scene.a.address).unwrap(), 20);
        assert_eq!(open(&scene.a, 10).len(), 10);
    });
}

#[test]
fn net_filter_comes_back_closed_after_a_flush() {
    in_namespace(|| {
        let mut scene = Scene::new();
        if !load_rules() {
            return;
        }
        scene.admit_all();
        load("flush ruleset").unwrap().unwrap();
        assert!(!scene.nft.has_table(Family::Bridge, "banger").unwrap());
        assert!(load_rules());
        scene.a.send_udp(WORLD, 7, b"question");
        assert!(!scene.host.uplink.got(b"question"));
        admit(&mut scene.nft, &scene.a);
        scene.a.send_udp(WORLD, 7, b"question");
        assert!(scene.host.uplink.got(b"question"));
    });
}

/// What the bridge itself stops at a confined port, even when somebody has flushed every rule.
#[test]
fn net_confined_ports_hold_without_any_rule() {
    in_namespace(|| {
        let mut host = Host::new();
        let (a, b) = (host.guest(2, true), host.guest(3, true));
        let reach = |guest: &Guest, to: Mac, from: Mac| {
            let packet = ipv4(guest.address, b.address, 17, &udp(4000, 9, b"hello"));
            guest.send(&ethernet(to, from, IPV4, &packet));
            b.got(b"hello")
        };
        assert!(!reach(&a, b.mac, a.mac), "isolated");
        assert!(!reach(&a, BROADCAST, a.mac), "isolated, broadcast");
        assert!(
            reach(&a, GATEWAY_MAC, a.mac),
            "routed: this is what the rules are for"
        );
        assert!(!reach(&a, GATEWAY_MAC, b.mac), "locked to its own MAC");
        assert!(
            !reach(&a, GATEWAY_MAC, [2, 9, 9, 9, 9, 9]),
            "locked to its own MAC"
        );

        // A flood of addresses leaves no trace in the bridge's table.
        for n in 0..1000_u16 {
            let [x, y] = n.to_be_bytes();
            let packet = ipv4(a.address, WORLD, 17, &udp(1, 2, b"flood"));
            a.send(&ethernet(GATEWAY_MAC, [2, 1, 1, 1, x, y], IPV4, &packet));
        }
        let table = ip_command("bridge", &["fdb", "show"]);
        assert!(table.contains("06:fc:ac:10:00:02"), "{table}");
        assert!(!table.contains("02:01:01:01"), "{table}");
    });
}

impl Scene {
    fn uplink_mac(&self) -> Mac {
        let text = ip(&["-br", "link", "show", "wan0"]);
        let mac = text.split_whitespace().nth(2).unwrap();
        let bytes: Vec<_> = mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }
}

fn default_route_v6() -> bool {
    !ip(&["-6", "route", "show", "default"]).is_empty()
}

fn ip(arguments: &[&str]) -> String {
    ip_command("ip", arguments)
}

fn ip_command(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
