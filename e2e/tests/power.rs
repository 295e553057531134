//! Power cuts: what the daemon writes is recorded while it does as it is asked, then it is started on
//! the states that a power cut could have left the disk in. In each it must open, have what was
//! acknowledged, and nothing of what was removed. `cargo xtask power` has it recorded in the lab and
//! replayed wherever it is root, and `cargo xtask smoke` does so at fewer moments.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot do its part fails there, and the table tells how far it came"
)]

#[path = "power/disks.rs"]
mod disks;
#[path = "power/log.rs"]
mod log;
#[path = "power/owner.rs"]
mod owner;
#[path = "power/replay.rs"]
mod replay;
#[path = "power/world.rs"]
mod world;

use disks::{Copy, Recorded};
use owner::Owner;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;
use world::World;

/// A small file system: its root's own directories.
const IMAGE: &str = "mkdir -p root/bin root/dev root/etc root/proc root/sys root/tmp root/run; \
                     echo small > root/etc/hostname; tar -C root -cf small.tar .";

/// What is asked, one after the other; each is noted in the log when it is acknowledged. (The keys
/// for ssh are made for a command that would then connect.)
const STORY: &[&[&str]] = &[
    &["vm", "create", "--name", "one", "--memory", "192M"],
    &[
        "vm", "set", "one", "--label", "of=power", "--memory", "160M",
    ],
    &["vm", "rename", "one", "first"],
    &["image", "import", "--tag", "small", "small.tar"],
    &["vm", "create", "--name", "two", "--image", "small"],
    &["vm", "rm", "two"],
    &["vm", "start", "first"],
    &["exec", "first", "--", "sh", "-c", WRITE],
    &["GET", "/v1/vms/first/ssh"],
    &["run", "--", "true"],
    &["vm", "stop", "first"],
    &["image", "rm", "--yes", "small"],
    &["vm", "create", "--name", "two"],
    &["vm", "rename", "two", "second"],
    &["vm", "rm", "second"],
    &["vm", "rm", "warm"],
];

/// What the guest writes through, and by which acknowledgement it has.
const WRITE: &str = "echo written > /root/kept; sync";
pub(crate) const WRITTEN: usize = 8;

/// Records the story: on a host with device-mapper.
#[test]
fn recorded() {
    let start = Instant::now();
    let recorded = Recorded::new();
    let owner = Owner::settle(recorded.path());
    owner.shell(IMAGE);
    warm_up(&owner);
    // What was put there by this program is no promise of the daemon's.
    owner.shell("sync");
    let mut worlds = vec![World::seen(&owner).unwrap()];
    Recorded::mark("ack:0");
    println!("prepared: {:.0} s", start.elapsed().as_secs_f64());
    for (number, argv) in (1..).zip(STORY) {
        if let ["GET", path] = argv {
            owner.ask("GET", path, "").unwrap();
        } else {
            owner.ok(argv);
        }
        Recorded::mark(&format!("ack:{number}"));
        worlds.push(World::seen(&owner).unwrap());
    }
    owner.kill();
    recorded.end(&kept("log"));
    let worlds: Vec<_> = worlds.iter().map(World::to_json).collect();
    fs::write(kept("worlds"), serde_json::to_vec(&worlds).unwrap()).unwrap();
    println!("recorded: {:.0} s", start.elapsed().as_secs_f64());
}

/// Cuts the power: on any host whose root may mount.
#[test]
fn a_power_cut_at_any_moment_leaves_what_was_acknowledged() {
    let start = Instant::now();
    let worlds: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(kept("worlds")).unwrap()).unwrap();
    let worlds: Vec<World> = worlds.iter().map(World::from_json).collect();
    let mut copy = Copy::new();
    let owner = Owner::at(copy.path());
    replay::replay(&mut copy, &owner, &kept("log"), &worlds);
    println!("replayed: {:.0} s", start.elapsed().as_secs_f64());
}

/// What goes from the one to the other.
fn kept(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("BANGER_POWER").unwrap()).join(name)
}

/// Makes the daemon one that has written for long: the database's write-ahead log is then written from
/// its beginning again. A commit changes no file's size, and its flush flushes no other file's changes.
fn warm_up(owner: &Owner) {
    owner.ok(&["vm", "create", "--name", "warm"]);
    let wal = owner.home().join("state/bangerd.db-wal");
    let length = || fs::metadata(&wal).unwrap().len();
    let mut turn = 0;
    loop {
        // A row of several pages.
        let label = format!("{turn:0250}");
        let labels: serde_json::Map<_, _> = (0..15)
            .map(|key| (format!("key-{key}"), label.clone().into()))
            .collect();
        let body = serde_json::json!({ "labels": labels });
        let before = length();
        owner
            .ask("PATCH", "/v1/vms/warm", &body.to_string())
            .unwrap();
        if length() == before {
            return;
        }
        turn += 1;
    }
}
