//! What netlink makes is what the kernel then has.

use std::net::Ipv4Addr;

use banger_sys::netlink::{Ipv4Setting, Links};
use banger_sys::tap::Tap;
use rustix::io::Errno;

use crate::guest::{BRIDGE, Host, attach, open_tun};
use crate::in_namespace;

const MAC: [u8; 6] = [6, 0xfc, 10, 9, 8, 1];

fn setting(family: &str, link: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/{family}/conf/{link}/{name}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn net_bridges_have_address_and_mark() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        assert_eq!(links.find(BRIDGE).unwrap(), None);
        let index = links.create_bridge(BRIDGE, MAC).unwrap();
        let taken = links.create_bridge(BRIDGE, MAC).unwrap_err();
        assert_eq!(taken.errno, Errno::EXIST);
        assert_eq!(taken.operation, "create bridge");
        links.set_alias(index, "banger:bridge").unwrap();
        let link = links.find(BRIDGE).unwrap().unwrap();
        assert_eq!(link.index, index);
        assert_eq!(link.kind.as_deref(), Some("bridge"));
        assert_eq!(link.alias.as_deref(), Some("banger:bridge"));
        assert_eq!(link.mac, Some(MAC));
        assert_eq!((link.master, link.port), (None, None));
        assert!(!link.is_up && !link.forwards_ipv4);

        links.set_up(index).unwrap();
        assert!(links.find(BRIDGE).unwrap().unwrap().is_up);
        links.set_down(index).unwrap();
        assert!(!links.find(BRIDGE).unwrap().unwrap().is_up);
        links.set_alias(index, "").unwrap();
        assert_eq!(links.find(BRIDGE).unwrap().unwrap().alias, None);
        assert!(links.set_alias(index, &"x".repeat(256)).is_err());

        links.delete(index).unwrap();
        assert_eq!(links.find(BRIDGE).unwrap(), None);
        assert_eq!(links.delete(index).unwrap_err().errno, Errno::NODEV);
    });
}

#[test]
fn net_names_no_link_can_have_are_refused_before_the_kernel_sees_them() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let before = links.links().unwrap();
        for name in ["", "tap%d", "a/b", "br-fc\0", "0123456789abcdef", "a\nb"] {
            let error = links.create_bridge(name, MAC).unwrap_err();
            assert_eq!(error.errno, Errno::INVAL, "{name:?}");
            assert!(error.to_string().contains(": "), "{error}");
            assert_eq!(Tap::create(name, 0, 0).unwrap_err(), Errno::INVAL);
        }
        assert_eq!(links.links().unwrap(), before);
    });
}

#[test]
fn net_ipv4_settings_are_of_one_link() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let index = links.create_bridge(BRIDGE, MAC).unwrap();
        let settings = [
            (Ipv4Setting::Forwarding, 1),
            (Ipv4Setting::AcceptRedirects, 0),
            (Ipv4Setting::RpFilter, 1),
            (Ipv4Setting::ArpIgnore, 1),
        ];
        links.set_ipv4(index, &settings).unwrap();
        assert!(links.find(BRIDGE).unwrap().unwrap().forwards_ipv4);
        assert!(!links.find("lo").unwrap().unwrap().forwards_ipv4);
        assert_eq!(setting("ipv4", BRIDGE, "forwarding"), "1");
        assert_eq!(setting("ipv4", BRIDGE, "accept_redirects"), "0");
        assert_eq!(setting("ipv4", BRIDGE, "rp_filter"), "1");
        assert_eq!(setting("ipv4", BRIDGE, "arp_ignore"), "1");
        for other in ["all", "default", "lo"] {
            assert_eq!(setting("ipv4", other, "forwarding"), "0", "{other}");
        }
        links
            .set_ipv4(index, &[(Ipv4Setting::Forwarding, 0)])
            .unwrap();
        assert_eq!(setting("ipv4", BRIDGE, "forwarding"), "0");
    });
}

#[test]
fn net_links_without_ipv6_addresses_stay_so_when_up() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let index = links.create_bridge(BRIDGE, MAC).unwrap();
        links.disable_ipv6_addresses(index).unwrap();
        assert_eq!(setting("ipv6", BRIDGE, "addr_gen_mode"), "1");
    });
}

#[test]
fn net_routes_and_addresses_tell_what_a_subnet_would_overlap() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let index = links.create_bridge("lan0", MAC).unwrap();
        links.set_up(index).unwrap();
        let host = Ipv4Addr::new(10, 9, 8, 7);
        links.add_address(index, host, 24).unwrap();
        assert_eq!(
            links.add_address(index, host, 24).unwrap_err().errno,
            Errno::EXIST
        );
        links.add_default_route(Ipv4Addr::new(10, 9, 8, 1)).unwrap();
        let status = std::process::Command::new("ip")
            .args(
                "route add table 77 10.44.0.0/16 nexthop via 10.9.8.3 nexthop via 10.9.8.4"
                    .split(' '),
            )
            .status();
        assert!(status.unwrap().success());

        let addresses = links.addresses().unwrap();
        assert!(
            addresses
                .iter()
                .any(|a| (a.link, a.address, a.prefix) == (index, host, 24))
        );
        let routes = links.routes().unwrap();
        let over = |network: [u8; 4], prefix: u8| -> Vec<_> {
            let shared = |r: &&banger_sys::netlink::Route| {
                let differing = r.destination.to_bits() ^ Ipv4Addr::from(network).to_bits();
                r.prefix > 0 && differing.leading_zeros() >= r.prefix.min(prefix).into()
            };
            routes.iter().filter(shared).collect()
        };
        assert!(
            routes
                .iter()
                .any(|r| r.prefix == 0 && r.link == Some(index))
        );
        // The network itself, and the machine's own and broadcast addresses in it.
        assert!(
            over([10, 9, 8, 0], 25)
                .iter()
                .all(|r| r.link == Some(index))
        );
        assert!(
            over([10, 9, 8, 0], 25)
                .iter()
                .any(|r| r.prefix == 24 && r.table == 254)
        );
        assert!(
            over([10, 9, 8, 0], 25)
                .iter()
                .any(|r| r.prefix == 32 && r.table == 255)
        );
        let multipath = over([10, 44, 3, 0], 24);
        assert_eq!(multipath.len(), 1);
        assert_eq!((multipath[0].link, multipath[0].table), (Some(index), 77));
        assert!(over([172, 16, 0, 0], 24).is_empty());
    });
}

#[test]
fn net_confined_ports_say_so() {
    in_namespace(|| {
        let mut host = Host::new();
        let (open, confined) = (host.guest(8, false), host.guest(9, true));
        let mut port = |name: &str| {
            let link = host.links.find(name).unwrap().unwrap();
            assert_eq!(link.master, Some(host.bridge));
            assert_eq!(link.kind.as_deref(), Some("tun"));
            link.port.unwrap()
        };
        let port_of_open = port(&open.name);
        assert!(port_of_open.is_learning && port_of_open.is_flooded);
        assert!(!port_of_open.is_isolated && !port_of_open.is_locked);
        let port_of_confined = port(&confined.name);
        assert!(!port_of_confined.is_learning && !port_of_confined.is_flooded);
        assert!(port_of_confined.is_isolated && port_of_confined.is_locked);
        host.links.set_master(open.index, None).unwrap();
        let freed = host.links.find(&open.name).unwrap().unwrap();
        assert_eq!((freed.master, freed.port), (None, None));
    });
}

#[test]
fn net_bridges_have_a_carrier_by_a_dummy_port() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let bridge = links.create_bridge(BRIDGE, MAC).unwrap();
        links.set_up(bridge).unwrap();
        assert!(!links.find(BRIDGE).unwrap().unwrap().has_carrier);
        let dummy = match links.create_dummy("fc-up", [6, 0xfc, 0, 0, 0, 1]) {
            Err(error) if error.errno == Errno::OPNOTSUPP => {
                eprintln!("skipped: this kernel has no dummy links ({error})");
                return;
            }
            result => result.unwrap(),
        };
        links.set_master(dummy, Some(bridge)).unwrap();
        links.set_up(dummy).unwrap();
        assert!(links.find(BRIDGE).unwrap().unwrap().has_carrier);
        assert_eq!(
            links.find("fc-up").unwrap().unwrap().kind.as_deref(),
            Some("dummy")
        );
    });
}

#[test]
fn net_taps_are_new_and_gone_unless_kept() {
    in_namespace(|| {
        let mut links = Links::open().unwrap();
        let tap = Tap::create("tap-1", 1000, 1000).unwrap();
        assert_eq!(Tap::create("tap-1", 0, 0).unwrap_err(), Errno::BUSY);
        drop(tap);
        assert_eq!(links.find("tap-1").unwrap(), None);
        Tap::create("tap-1", 1000, 1000).unwrap().persist().unwrap();
        assert_eq!(Tap::create("tap-1", 0, 0).unwrap_err(), Errno::BUSY);
        let link = links.find("tap-1").unwrap().unwrap();
        assert_eq!(link.kind.as_deref(), Some("tun"));
        links.delete(link.index).unwrap();
        assert_eq!(links.find("tap-1").unwrap(), None);
    });
}

#[test]
fn net_taps_are_their_owners() {
    in_namespace(|| {
        Tap::create("tap-1", 61001, 61001)
            .unwrap()
            .persist()
            .unwrap();
        for (uid, gid, expected) in [
            (61001, 61001, Ok(())),
            (61002, 61001, Err(Errno::PERM)),
            (61001, 61002, Err(Errno::PERM)),
        ] {
            // A thread inherits the namespace; with raw calls only its own identity changes.
            let tun = open_tun();
            let attached = std::thread::spawn(move || {
                // SAFETY: these calls take numbers only, and the C library, which would set every
                // thread's identity, is not asked.
                unsafe {
                    assert_eq!(libc::syscall(libc::SYS_setgroups, 0, 0), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
                }
                attach(&tun, "tap-1")
            });
            assert_eq!(attached.join().unwrap(), expected, "{uid} {gid}");
        }
    });
}
