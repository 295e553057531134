//! The states that power cuts leave: for each, what the disk owes by then, and of what had completed
//! but was not flushed, some: whole, in part, or not at all.

use crate::WRITTEN;
use crate::disks::Copy;
use crate::log::{Entry, Log};
use crate::owner::Owner;
use crate::world::{KEY, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// At how many moments the power is cut, beside every acknowledgement, unless
/// `BANGER_POWER_MOMENTS` says otherwise.
const MOMENTS: usize = 40;

/// What came of the states of one kind.
#[derive(Debug, Default)]
struct Tally {
    states: u32,
    /// The daemon did not open it.
    shut: u32,
    /// Not as acknowledged.
    untrue: u32,
    /// With a VM's directory that nothing proves to be a run's: it is told, and goes when asked.
    orphaned: u32,
    /// With something that belongs to nothing.
    littered: u32,
    slowest: Duration,
}

impl Tally {
    fn count(&mut self, found: &Found) {
        self.states += 1;
        self.shut += u32::from(!found.shut.is_empty());
        self.untrue += u32::from(!found.untrue.is_empty());
        self.orphaned += u32::from(found.is_orphaned);
        self.littered += u32::from(!found.litter.is_empty());
    }
}

/// What is wrong with a state.
#[derive(Debug, Default)]
struct Found {
    shut: Vec<String>,
    untrue: Vec<String>,
    litter: Vec<String>,
    is_orphaned: bool,
}

impl Found {
    fn all(self) -> impl Iterator<Item = String> {
        [self.shut, self.untrue, self.litter].into_iter().flatten()
    }
}

/// Replays the log and cuts the power on the way; `worlds` is what was true after each acknowledgement.
pub(crate) fn replay(copy: &mut Copy, owner: &Owner, log: &Path, worlds: &[World]) {
    let log = Log::read(log);
    let chosen = choose(&log.entries);
    let mut acknowledged = 0;
    let mut tallies = BTreeMap::<&str, Tally>::new();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut faults = Vec::new();
    for (index, entry) in log.entries.iter().enumerate() {
        log.apply(entry, None, copy.disk());
        let mark = entry.mark.as_deref();
        if let Some(number) = mark.and_then(|mark| mark.strip_prefix("ack:")) {
            acknowledged = number.parse().unwrap();
        }
        if !chosen.contains(&index) {
            continue;
        }
        let completed = completed(&log.entries[index + 1..]);
        let [whole, torn] = match mark {
            Some(_) => ["acknowledged", "acknowledged, torn"],
            None => ["flushed", "flushed, torn"],
        };
        let before = &worlds[acknowledged];
        let after = worlds.get(acknowledged + 1).unwrap_or(before);
        for kind in [whole, torn] {
            // Where nothing was completed, there is nothing to tear.
            if kind == torn && completed.is_empty() {
                continue;
            }
            copy.cut(|disk| {
                if kind == torn {
                    noise.tear(&log, &completed, disk);
                }
            });
            let begin = Instant::now();
            let mut found = judge(owner, before, after);
            let tally = tallies.entry(kind).or_default();
            tally.slowest = tally.slowest.max(begin.elapsed());
            if kind == whole && mark.is_some() && acknowledged == WRITTEN {
                found.untrue.extend(written(owner).err());
            }
            tally.count(&found);
            for fault in found.all() {
                faults.push(format!(
                    "entry {index}, {kind}, after ack:{acknowledged}: {fault}"
                ));
            }
            owner.kill();
            copy.mend();
        }
    }
    tell(&log, &tallies);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Writes that had completed but need not be on the disk: until the next that is flushed or written
/// through, and not what was written by those who knew of the next acknowledgement.
fn completed(after: &[Entry]) -> Vec<&Entry> {
    after
        .iter()
        .take_while(|entry| !entry.is_moment())
        .filter(|entry| entry.is_write())
        .collect()
}

/// Starts the daemon as a user would, and looks at what it shows and what lies around. What was asked
/// when the power was cut is done or not.
fn judge(owner: &Owner, before: &World, after: &World) -> Found {
    let mut found = Found::default();
    let listed = owner.run(&["vm", "list"]);
    if listed.code != 0 {
        found.shut.push(listed.stderr);
        return found;
    }
    match World::seen(owner) {
        Ok(world) => {
            if !world.is_either(before, after) {
                found.untrue = world.difference(before);
            }
            found.litter = world.litter(owner.home());
            found.is_orphaned = found
                .litter
                .iter()
                .any(|path| path.starts_with("state/vms/"));
            if found.is_orphaned {
                // As `banger doctor --fix` does.
                found
                    .shut
                    .extend(owner.ask("POST", "/v1/tidy", "null").err());
                found.litter = world.litter(owner.home());
            }
            found.litter.extend(ssh(owner).err());
        }
        Err(why) => found.shut.push(why),
    }
    found
}

/// The VM starts again, and what its guest wrote through is there.
fn written(owner: &Owner) -> Result<(), String> {
    let started = owner.run(&["vm", "start", "first"]);
    let kept = owner.run(&["exec", "first", "--", "cat", "/root/kept"]);
    if kept.stdout == "written\n" {
        Ok(())
    } else {
        Err(format!("what was written through: {started:?} {kept:?}"))
    }
}

/// Has the keys for ssh made, where they are not there: half of one must not be in the way.
fn ssh(owner: &Owner) -> Result<(), String> {
    let vms = owner.ask("GET", "/v1/vms", "")?;
    let Some(vm) = vms.as_array().and_then(|vms| vms.first()) else {
        return Ok(());
    };
    owner.ask(
        "GET",
        &format!("/v1/vms/{}/ssh", vm["name"].as_str().unwrap()),
        "",
    )?;
    let key = fs::read_to_string(owner.home().join(KEY)).unwrap_or_default();
    if key.ends_with('\n') {
        Ok(())
    } else {
        Err(format!("{KEY} is {key:?}"))
    }
}

fn tell(log: &Log, tallies: &BTreeMap<&str, Tally>) {
    let megabytes: u64 = log.entries.iter().map(|entry| entry.length).sum::<u64>() >> 20;
    let flushes = log.entries.iter().filter(|entry| entry.is_flush()).count();
    println!(
        "{} entries, {flushes} flushes, {megabytes} MiB\n{:<20} {:>6} {:>9} {:>7} {:>9} {:>9} {:>9}",
        log.entries.len(),
        "power cut",
        "states",
        "not open",
        "untrue",
        "orphaned",
        "littered",
        "slowest s"
    );
    for (kind, tally) in tallies {
        println!(
            "{kind:<20} {:>6} {:>9} {:>7} {:>9} {:>9} {:>9.1}",
            tally.states,
            tally.shut,
            tally.untrue,
            tally.orphaned,
            tally.littered,
            tally.slowest.as_secs_f64()
        );
    }
}

/// Every mark, and others spread evenly over the log.
fn choose(entries: &[Entry]) -> BTreeSet<usize> {
    let moments = std::env::var("BANGER_POWER_MOMENTS").ok();
    let wanted = moments.map_or(MOMENTS, |moments| moments.parse().unwrap());
    // Before, the story had not begun.
    let begin = entries.iter().position(|entry| entry.mark.is_some());
    let of = |is: fn(&Entry) -> bool| {
        let all = entries.iter().enumerate().skip(begin.unwrap());
        all.filter(move |(_, entry)| is(entry))
            .map(|(index, _)| index)
    };
    let others: Vec<usize> = of(|entry| entry.is_moment() && entry.mark.is_none()).collect();
    let step = others.len().div_ceil(wanted.max(1)).max(1);
    let mut chosen: BTreeSet<usize> = of(|entry| entry.mark.is_some()).collect();
    chosen.extend(others.into_iter().step_by(step));
    chosen
}

/// Chances that repeat from run to run: a xorshift generator.
struct Noise(u64);

impl Noise {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    /// Half of the writes get there, and a quarter of those in part.
    fn tear(&mut self, log: &Log, writes: &[&Entry], disk: &File) {
        for write in writes {
            if self.below(2) == 0 {
                continue;
            }
            let part = (self.below(4) == 0).then(|| self.below(log.sectors(write) + 1));
            log.apply(write, part, disk);
        }
    }
}
