//! Elements of nftables sets.

use std::net::Ipv4Addr;

use banger_sys::nft::{Change, Family, Key, Nft, Set, Watch};
use rustix::io::Errno;

use crate::{in_namespace, load};

const RULES: &str = "
table bridge sample {
    set guests { type ifname . ether_addr . ipv4_addr; }
}
table inet sample {
    set nat { type ipv4_addr; }
    set links { type ifname; }
    chain c { ip saddr @nat accept; accept; }
}
";
const GUESTS: Set<'_> = Set {
    family: Family::Bridge,
    table: "sample",
    name: "guests",
};
const NAT: Set<'_> = Set {
    family: Family::Inet,
    table: "sample",
    name: "nat",
};
const LINKS: Set<'_> = Set {
    family: Family::Inet,
    table: "sample",
    name: "links",
};

fn guest(last: u8) -> Key {
    Key::default()
        .link("tap-00000001")
        .unwrap()
        .mac([6, 0xfc, 172, 16, 0, last])
        .address(Ipv4Addr::new(172, 16, 0, last))
}

fn address(last: u8) -> Key {
    Key::default().address(Ipv4Addr::new(172, 16, 0, last))
}

fn listing() -> String {
    let output = std::process::Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn net_elements_are_what_nft_reads() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let mut nft = Nft::open().unwrap();
        let link = Key::default().link("eth0").unwrap();
        nft.apply(&[
            Change::Add(GUESTS, &guest(2)),
            Change::Add(NAT, &address(2)),
            Change::Add(LINKS, &link),
        ])
        .unwrap();
        let text = listing();
        assert!(
            text.contains(r#"{ "tap-00000001" . 06:fc:ac:10:00:02 . 172.16.0.2 }"#),
            "{text}"
        );
        assert!(text.contains("{ 172.16.0.2 }"), "{text}");
        assert!(text.contains(r#"{ "eth0" }"#), "{text}");
        nft.apply(&[Change::Add(NAT, &address(2))]).unwrap();
        assert_eq!(nft.elements(NAT).unwrap(), [address(2)]);
        assert_eq!(nft.elements(GUESTS).unwrap(), [guest(2)]);
        assert_eq!(nft.elements(LINKS).unwrap(), [link]);
        assert!(nft.has_element(GUESTS, &guest(2)).unwrap());
        assert!(!nft.has_element(GUESTS, &guest(3)).unwrap());
        nft.apply(&[Change::Remove(GUESTS, &guest(2))]).unwrap();
        assert_eq!(nft.elements(GUESTS).unwrap(), []);
    });
}

#[test]
fn net_transactions_fail_whole_and_say_where() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let mut nft = Nft::open().unwrap();
        let failed = nft
            .apply(&[
                Change::Add(NAT, &address(2)),
                Change::Remove(GUESTS, &guest(2)),
                Change::Add(NAT, &address(3)),
            ])
            .unwrap_err();
        assert_eq!(failed.errno, Errno::NOENT);
        assert_eq!(failed.operation, "remove element");
        assert_eq!(nft.elements(NAT).unwrap(), []);
        // The socket is good for the next one.
        nft.apply(&[Change::Add(NAT, &address(4))]).unwrap();
        assert_eq!(nft.elements(NAT).unwrap(), [address(4)]);
        let wrong = nft.apply(&[Change::Add(NAT, &guest(2))]).unwrap_err();
        assert_eq!(wrong.errno, Errno::INVAL);
    });
}

#[test]
fn net_many_elements_are_listed() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let keys: Vec<_> = (0..4096_u32)
            .map(|n| Key::default().address(Ipv4Addr::from_bits(0xac10_0000 + n)))
            .collect();
        let mut nft = Nft::open().unwrap();
        let changes: Vec<_> = keys.iter().map(|key| Change::Add(NAT, key)).collect();
        for part in changes.chunks(256) {
            nft.apply(part).unwrap();
        }
        assert_eq!(nft.elements(NAT).unwrap().len(), 4096);
    });
}

#[test]
fn net_a_flush_by_somebody_is_heard_and_seen() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let mut nft = Nft::open().unwrap();
        nft.apply(&[Change::Add(NAT, &address(2))]).unwrap();
        assert!(nft.has_table(Family::Inet, "sample").unwrap());
        assert!(!nft.has_table(Family::Inet, "other").unwrap());
        assert_eq!(nft.rule_count(Family::Inet, "sample").unwrap(), 2);
        let watch = Watch::open().unwrap();
        // Other tables are other people's.
        load("add table inet other\ndelete table inet other\nflush ruleset")
            .unwrap()
            .unwrap();
        watch.wait("sample").unwrap();
        assert!(!nft.has_table(Family::Inet, "sample").unwrap());
        assert_eq!(nft.rule_count(Family::Inet, "sample").unwrap(), 0);
        assert!(!nft.has_element(NAT, &address(2)).unwrap());
        assert_eq!(nft.elements(NAT).unwrap_err().errno, Errno::NOENT);
    });
}

#[test]
fn net_tables_are_deleted_with_what_is_in_them() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let mut nft = Nft::open().unwrap();
        nft.apply(&[
            Change::DeleteTable(Family::Inet, "sample"),
            Change::DeleteTable(Family::Bridge, "sample"),
        ])
        .unwrap();
        assert_eq!(listing(), "");
        let gone = nft.apply(&[Change::DeleteTable(Family::Inet, "sample")]);
        assert_eq!(gone.unwrap_err().errno, Errno::NOENT);
    });
}
