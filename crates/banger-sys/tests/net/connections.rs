//! Who gets a guest's address later gets nothing that was meant for it.

use banger_sys::conntrack::forget;

use crate::frame::contains;
use crate::guest::{Guest, Host, WORLD};
use crate::{in_namespace, load};

const RULES: &str = "
table inet sample {
    chain forward {
        type filter hook forward priority 0; policy accept;
        oifname br-fc ct state new drop
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        oifname wan0 masquerade
    }
}
";

#[test]
fn net_forgotten_connections_get_no_answers() {
    in_namespace(|| {
        let Some(loaded) = load(RULES) else { return };
        loaded.unwrap();
        let mut host = Host::new();
        let (a, b) = (host.guest(2, true), host.guest(3, true));
        let ask = |guest: &Guest| {
            guest.send_udp(WORLD, 7, b"question");
            let frames = host.uplink.received();
            frames
                .into_iter()
                .find(|frame| contains(frame, b"question"))
                .unwrap()
        };
        let (of_a, of_b) = (ask(&a), ask(&b));
        host.answer(&of_a, b"first");
        assert!(a.got(b"first"));

        assert_eq!(forget(a.address).unwrap(), 1);
        assert_eq!(forget(a.address).unwrap(), 0);
        host.answer(&of_a, b"second");
        assert!(!a.got(b"second"));
        host.answer(&of_b, b"other");
        assert!(b.got(b"other"), "nobody else's were forgotten");
    });
}
