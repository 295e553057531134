//! What a VM's VMM uses, as the kernel counts it. Reads only; what cannot be read is unknown.

use super::handle::VmHandle;
use super::place::VmPlace;
use super::record::VmRecord;
use crate::files::read_small;
use banger_api::{Dirs, NetworkMode, StatsView};
use banger_names::ByteSize;
use std::path::Path;

/// The largest of the kernel's files that are read, in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// What the VM uses; `None` if it does not run. Blocks.
pub(crate) fn read(dirs: &Dirs, vm: &VmHandle) -> Option<StatsView> {
    let record = vm.now().record;
    let pid = record.process.as_ref()?.pid;
    let proc = |name: &str| read_proc(&format!("/proc/{pid}/{name}"));
    // A jailed VMM is another user's: of it only the control group can be seen.
    let scope = record.last_start()?.scope();
    let group = |name: &str| read_proc(&format!("/sys/fs/cgroup/banger.slice/{scope}/{name}"));
    let io = proc("io")
        .and_then(|text| Some((field(&text, "read_bytes:")?, field(&text, "write_bytes:")?)))
        .or_else(|| group("io.stat").map(|text| sum_io(&text)));
    let cpu = cpu_used(&record);
    let resident = proc("status")
        .and_then(|text| memory(&text))
        .or_else(|| group_memory(&group("memory.current")?, group("hugetlb.2MB.current")));
    let tap = record
        .last_start()
        .filter(|_| record.plan.network == NetworkMode::Nat);
    let net = |counter: &str| {
        let tap = tap.as_ref()?.tap();
        let text = read_proc(&format!("/sys/class/net/{tap}/statistics/{counter}"))?;
        text.trim().parse().ok()
    };
    Some(StatsView {
        id: record.id.clone(),
        name: record.plan.name.clone(),
        at_ns: now_ns(),
        cpus: record
            .given
            .as_ref()
            .map_or(record.plan.cpus, |given| given.cpus),
        cpu_ns: cpu,
        memory: record
            .given
            .as_ref()
            .map_or(record.plan.memory, |given| given.memory),
        memory_used: resident,
        disk: record.plan.disk,
        disk_used: VmPlace::of(dirs, &record.id).disk_used(),
        disk_read: io.map(|(read, _)| read),
        disk_written: io.map(|(_, written)| written),
        // What the host's end of the wire sends, the guest receives.
        net_received: net("tx_bytes"),
        net_sent: net("rx_bytes"),
    })
}

/// The CPU time that the VM's VMM has used, in nanoseconds.
pub(super) fn cpu_used(record: &VmRecord) -> Option<u64> {
    let pid = record.process.as_ref()?.pid;
    let scope = record.last_start()?.scope();
    read_proc(&format!("/proc/{pid}/stat"))
        .and_then(|text| cpu_ns(&text, rustix::param::clock_ticks_per_second()))
        .or_else(|| {
            let text = read_proc(&format!("/sys/fs/cgroup/banger.slice/{scope}/cpu.stat"))?;
            field(&text, "usage_usec ")?.checked_mul(1000)
        })
}

/// How long what controls the VM's VMM has worked, or waited for a CPU or a disk, in nanoseconds since
/// some moment: of one that is blocked this does not grow, whatever its virtual CPUs do.
///
/// Of a jailed VMM the threads are hidden and the kernel's account of what its group waited for counts;
/// where there is none, all that it worked does.
pub(super) fn busy(record: &VmRecord) -> Option<u64> {
    let pid = record.process.as_ref()?.pid;
    let scope = record.last_start()?.scope();
    control_busy(&format!("/proc/{pid}/task"))
        .or_else(|| {
            let waited = |what: &str| {
                let path = format!("/sys/fs/cgroup/banger.slice/{scope}/{what}.pressure");
                pressure(&read_proc(&path)?)
            };
            Some(waited("cpu")?.saturating_add(waited("io").unwrap_or(0)))
        })
        .or_else(|| cpu_used(record))
}

/// The same of these threads, but the virtual CPUs of Firecracker. QEMU's count, for they hold the lock
/// that its control waits for. One that waits for a disk counts as if it had for ever.
fn control_busy(threads: &str) -> Option<u64> {
    let mut busy = 0_u64;
    for thread in std::fs::read_dir(threads).ok()?.flatten() {
        let path = thread.path();
        let (Ok(stat), Ok(times)) = (
            read_small(&path.join("stat"), MAX_FILE),
            read_small(&path.join("schedstat"), MAX_FILE),
        ) else {
            // A thread that has just ended; or a kernel that does not tell, of any.
            continue;
        };
        busy = busy.checked_add(thread_busy(&stat, &times)?)?;
    }
    (busy > 0).then_some(busy)
}

fn thread_busy(stat: &str, times: &str) -> Option<u64> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
    if name.starts_with("fc_vcpu") {
        return Some(0);
    }
    let mut times = times.split_ascii_whitespace();
    let ran: u64 = times.next()?.parse().ok()?;
    let waited: u64 = times.next()?.parse().ok()?;
    let disk = if fields.starts_with('D') { now_ns() } else { 0 };
    ran.checked_add(waited)?.checked_add(disk)
}

/// How long anything in a group has waited, as a file of its pressure tells in microseconds.
fn pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut words = some.split_ascii_whitespace();
    let total: u64 = words
        .find_map(|word| word.strip_prefix("total="))?
        .parse()
        .ok()?;
    total.checked_mul(1000)
}

/// How many processes the kernel has killed for want of memory, as this file of its counts them:
/// `/proc/vmstat` all on the host, `memory.events` those of a control group and beneath it.
pub(super) fn oom_kills(counter: &Path) -> Option<u64> {
    field(&read_small(counter, MAX_FILE).ok()?, "oom_kill ")
}

fn read_proc(path: &str) -> Option<String> {
    read_small(Path::new(path), MAX_FILE).ok()
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// The CPU time of a line of `/proc/PID/stat`: user and system, in ticks. The program's name may
/// have anything in it, parentheses too.
fn cpu_ns(stat: &str, ticks_per_second: u64) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let tick_ns = 1_000_000_000_u64.checked_div(ticks_per_second)?;
    user.checked_add(system)?.checked_mul(tick_ns)
}

/// The memory that `/proc/PID/status` tells of, huge pages included.
fn memory(status: &str) -> Option<ByteSize> {
    let kib = field(status, "VmRSS:")? + field(status, "HugetlbPages:").unwrap_or(0);
    Some(ByteSize(kib.checked_mul(1024)?))
}

/// The number after `name` in a file of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The memory of a control group; huge pages are counted apart, by kernels that do.
fn group_memory(current: &str, huge: Option<String>) -> Option<ByteSize> {
    let huge = huge.and_then(|text| text.trim().parse::<u64>().ok());
    let current: u64 = current.trim().parse().ok()?;
    Some(ByteSize(current.saturating_add(huge.unwrap_or(0))))
}

fn sum_io(text: &str) -> (u64, u64) {
    let sum = |name: &str| {
        text.split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
            .fold(0_u64, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_as_it_writes_them() {
        let stat = "7 (evil) R (x) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 900 1 2";
        assert_eq!(cpu_ns(stat, 100), Some(3_000_000_000));
        assert_eq!(cpu_ns("7 no", 100), None);
        assert_eq!(cpu_ns(stat, 0), None);
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nHugetlbPages:\t    1024 kB\n";
        assert_eq!(memory(status), Some(ByteSize::mib(3)));
        assert_eq!(memory("Name:\tx\n"), None);
        let cpu = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(field(cpu, "usage_usec "), Some(1500));
        assert_eq!(group_memory("4096\n", None), Some(ByteSize(4096)));
        assert_eq!(thread_busy(stat, "70 30 2\n"), Some(100));
        assert_eq!(thread_busy("8 (fc_vcpu 0) R 1 7", "70 30 2\n"), Some(0));
        let at_disk = thread_busy("7 (firecracker) D 1 7", "70 30 2\n");
        assert!(at_disk.unwrap() > thread_busy(stat, "70 30 2\n").unwrap());
        assert_eq!(thread_busy(stat, "\n"), None);
        let waits = "some avg10=1.50 avg60=0.00 avg300=0.00 total=24\nfull avg10=0.00 total=3\n";
        assert_eq!(pressure(waits), Some(24_000));
        assert_eq!(pressure("full total=3\n"), None);
        let huge = Some("2097152\n".to_owned());
        assert_eq!(group_memory("4096\n", huge), Some(ByteSize(2_101_248)));
        let io = "253:0 rbytes=100 wbytes=5 rios=1\n8:0 rbytes=11 wbytes=6 dbytes=0\n";
        assert_eq!(sum_io(io), (111, 11));
        assert_eq!(
            field("rchar: 5\nread_bytes: 4096\n", "read_bytes:"),
            Some(4096)
        );
    }
}
