//! The installed services in the lab that counts instructions: jailed, with a tap, with each
//! storage, against the bare engine and the bare jailer.

use super::Options;
use super::inside::Jailed;
use super::lab::{BASE, BOOT_AIM, Host};
use super::report::Row;
use super::store::LabStore;
use anyhow::Result;
use std::fmt::Write;

/// The aim for a boot against the same one by the bare jailer.
const JAILER_AIM: f64 = 1.2;

/// The ways to keep a VM's disk.
const STORAGES: [&str; 2] = ["overlay", "snapshot"];

/// Installs, gives the services what was pushed, and measures.
pub(super) fn measure(
    options: &Options,
    store: &LabStore,
    host: &Host,
) -> Result<Vec<(&'static str, Jailed)>> {
    let path = format!("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{BASE}/dist");
    host.must(&[
        "env", &path, "banger", "system", "install", "--owner", "dev",
    ])?;
    // Within one file system: nothing is copied.
    let give = format!(
        "systemctl stop bangerd.service
         rm -rf /var/lib/banger/data /var/cache/banger
         mv {BASE}/home/data /var/lib/banger/data
         mv {BASE}/home/cache /var/cache/banger
         systemctl start bangerd.service"
    );
    host.must(&["sh", "-ec", &give])?;
    let runs = options.runs.to_string();
    let measure = |storage| {
        let found = host.inside(false, &["jailed", &store.debian, storage, &runs])?;
        Ok((storage, found))
    };
    STORAGES.into_iter().map(measure).collect()
}

pub(super) fn rows(storage: &str, found: Jailed) -> Vec<Row> {
    let ms = |what: &str, values| Row::of(format!("{storage}, jailed: {what}"), "ms", values);
    let ratio = |what: &str, other: &[f64], aim| {
        let name = format!("{storage}, jailed: banger run to agent ready / {what}");
        Row::ratio(name, &found.ready_ms, other).at_most(aim)
    };
    let to_raw = ratio("raw", &found.raw_ms, BOOT_AIM);
    let to_jailer = ratio("bare jailer", &found.jailer_ms, JAILER_AIM);
    vec![
        ms("raw firecracker with a tap to agent ready", found.raw_ms),
        ms("bare jailer to agent ready", found.jailer_ms),
        ms("banger run to agent ready", found.ready_ms),
        ms("  of that the daemon's boot_ms", found.daemon_ms),
        ms("banger run to its end", found.whole_ms),
        to_raw,
        to_jailer,
    ]
}

/// What the host executed during one run, in words.
pub(super) fn executed(all: &[(&'static str, Jailed)]) -> String {
    let mut text = String::new();
    for (storage, found) in all {
        let list = found.executed.join(", ");
        writeln!(
            text,
            "\nexecuted during one run with storage {storage}: {list}"
        )
        .expect("writing to a String cannot fail");
    }
    text
}
