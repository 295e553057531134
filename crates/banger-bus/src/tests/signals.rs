//! A scope's start and end: only systemd's own word about our own job counts.

use super::fake_bus::{BRIEF, PLENTY, Peer, SYSTEMD, fake, job_removed, message};
use crate::message::{ERROR, SIGNAL};
use crate::wire::Writer;
use crate::{BusError, DeviceKind, DeviceRule, ScopeSpec};
use std::sync::mpsc::channel;

const UNIT: &str = "banger-vm-0123abcd.scope";
const JOB: &str = "/org/freedesktop/systemd1/job/7";

const KVM: DeviceRule = DeviceRule {
    kind: DeviceKind::Char,
    major: 10,
    minor: 232,
    may_mknod: true,
};

fn spec() -> ScopeSpec<'static> {
    ScopeSpec {
        name: UNIT,
        description: "banger VM",
        slice: "banger.slice",
        pid: 4242,
        memory_max: 1 << 30,
        tasks_max: 64,
        cpu_quota_us: 1_000_000,
        devices: &[KVM],
    }
}

/// Takes the start of a scope, says that it is job [`JOB`], and then `signals`.
fn start(peer: &mut Peer, signals: &[Vec<u8>]) {
    peer.grant("AddMatch");
    let asked = peer.expect("StartTransientUnit");
    peer.reply(&asked, "o", Writer::default().str(JOB));
    for signal in signals {
        peer.send(signal);
    }
    peer.grant("RemoveMatch");
    peer.hold();
}

#[test]
fn start_scope_ends_with_its_own_job_done() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        let done = job_removed(SYSTEMD, JOB, UNIT, "done");
        let other = job_removed(SYSTEMD, "/job/8", "other.scope", "failed");
        start(peer, &[other, done]);
    });
    bus.start_scope(&spec()).unwrap();
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn start_scope_ignores_a_forged_job_signal() {
    let (mut bus, thread) = fake(BRIEF, |peer| {
        let forged = job_removed(":1.66", JOB, UNIT, "done");
        start(peer, &[forged]);
    });
    let waited = bus.start_scope(&spec());
    assert!(
        matches!(waited, Err(BusError::TimedOut("JobRemoved"))),
        "{waited:?}"
    );
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn start_scope_reports_a_job_that_failed() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        start(peer, &[job_removed(SYSTEMD, JOB, UNIT, "failed\x1b")]);
    });
    let failed = bus.start_scope(&spec());
    assert!(
        matches!(&failed, Err(BusError::JobFailed { unit, result }) if unit == UNIT && result == "failed?"),
        "{failed:?}"
    );
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn start_scope_tells_a_taken_name_apart_and_stops_watching() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        peer.grant("AddMatch");
        let asked = peer.expect("StartTransientUnit");
        let name = "org.freedesktop.systemd1.UnitExists";
        let words = Writer::default().str("Unit was already loaded");
        peer.send(&message(ERROR, SYSTEMD, asked.serial, name, "s", &words));
        peer.grant("RemoveMatch");
        peer.hold();
    });
    let taken = bus.start_scope(&spec());
    assert!(
        matches!(&taken, Err(BusError::UnitExists(unit)) if unit == UNIT),
        "{taken:?}"
    );
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn start_scope_sends_what_it_was_told() {
    let (heard, hears) = channel();
    let (mut bus, thread) = fake(PLENTY, move |peer| {
        peer.grant("AddMatch");
        let asked = peer.expect("StartTransientUnit");
        let mut body = asked.message.body("ssa(sv)a(sa(sv))").unwrap();
        let mut said = vec![
            body.str().unwrap().to_owned(),
            body.str().unwrap().to_owned(),
        ];
        let mut list = body.array(8).unwrap();
        while !list.is_empty() {
            list.align(8).unwrap();
            let name = list.str().unwrap();
            let value = match list.signature().unwrap() {
                "s" => list.str().unwrap().to_owned(),
                "t" => {
                    list.align(8).unwrap();
                    u64::from_le_bytes(list.take(8).unwrap().try_into().unwrap()).to_string()
                }
                "b" => list.u32().unwrap().to_string(),
                "au" => list.array(4).unwrap().u32().unwrap().to_string(),
                "a(ss)" => {
                    let mut rules = list.array(8).unwrap();
                    let rule = (rules.str().unwrap(), rules.str().unwrap());
                    assert!(rules.is_empty());
                    format!("{} {}", rule.0, rule.1)
                }
                other => panic!("{other}"),
            };
            said.push(format!("{name}={value}"));
        }
        assert!(body.array(8).unwrap().is_empty());
        heard.send(said).unwrap();
    });
    assert!(matches!(bus.start_scope(&spec()), Err(BusError::Closed(_))));
    assert_eq!(
        hears.recv().unwrap(),
        [
            UNIT,
            "fail",
            "Description=banger VM",
            "Slice=banger.slice",
            "CollectMode=inactive-or-failed",
            "DevicePolicy=closed",
            "MemoryMax=1073741824",
            "MemorySwapMax=0",
            "TasksMax=64",
            "CPUQuotaPerSecUSec=1000000",
            "IOAccounting=1",
            "DeviceAllow=/dev/char/10:232 rwm",
            "PIDs=4242",
        ]
    );
    thread.join().unwrap();
}

#[test]
fn start_scope_refuses_names_that_mean_more_before_any_byte_is_sent() {
    let (mut bus, thread) = fake(PLENTY, |peer| {
        assert!(peer.call().is_none(), "something was sent");
    });
    let long = format!("{}.scope", "a".repeat(201));
    let names = [
        "",
        ".scope",
        "a.service",
        "a/b.scope",
        "..scope",
        "a b.scope",
        "a'.scope",
        "a\n.scope",
        "a\0.scope",
        "%i.scope",
        "a@b.scope",
        "\u{e9}.scope",
        &long,
    ];
    for name in names {
        for (name, slice) in [(name, "banger.slice"), (UNIT, name)] {
            let spec = ScopeSpec {
                name,
                slice,
                ..spec()
            };
            let refused = bus.start_scope(&spec);
            assert!(matches!(refused, Err(BusError::Unfit { .. })), "{name:?}");
        }
        assert!(bus.unit_exists(name).is_err());
        assert!(bus.wait_unit_gone(name).is_err());
        assert!(bus.stop_unit(name).is_err());
    }
    let spec = ScopeSpec {
        description: "two\nlines",
        ..spec()
    };
    assert!(matches!(
        bus.start_scope(&spec),
        Err(BusError::Unfit { .. })
    ));
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn wait_unit_gone_ends_with_systemds_word_about_that_unit() {
    let removed = |sender: &str, unit: &str| {
        let body = Writer::default().str(unit).str("/unit");
        message(SIGNAL, sender, 0, "UnitRemoved", "so", &body)
    };
    let signals = [
        removed(":1.66", UNIT),
        removed(SYSTEMD, "other.scope"),
        removed(SYSTEMD, UNIT),
    ];
    let (told, tells) = channel();
    let (mut bus, thread) = fake(PLENTY, move |peer| {
        peer.grant("AddMatch");
        peer.grant("Subscribe");
        let asked = peer.expect("GetUnit");
        peer.reply(&asked, "o", Writer::default().str("/unit"));
        for (count, signal) in signals.iter().enumerate() {
            told.send(count).unwrap();
            peer.send(signal);
        }
        peer.grant("Unsubscribe");
        peer.grant("RemoveMatch");
        peer.hold();
    });
    bus.wait_unit_gone(UNIT).unwrap();
    assert_eq!(tells.try_iter().count(), 3, "it did not wait for the last");
    drop(bus);
    thread.join().unwrap();
}

#[test]
fn r9_route_zone_refuses_what_is_more_than_one_label_before_any_byte_is_sent() {
    let (mut bus, thread) = fake(PLENTY, |_| ());
    let long = "v".repeat(64);
    for zone in [
        "",
        ".",
        "vm.",
        "~vm",
        "example.com",
        "VM",
        "v m",
        "v\0m",
        "vm\n",
        "ｖｍ",
        &long,
    ] {
        let server = "10.0.0.1:8053".parse().unwrap();
        let refused = bus.route_zone(7, zone, server);
        assert!(matches!(refused, Err(BusError::Unfit { .. })), "{zone:?}");
    }
    drop(bus);
    thread.join().unwrap();
}
