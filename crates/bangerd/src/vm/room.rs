//! Whether the host has room for one VM more: asked before each start, so that it fails by name
//! instead of the kernel choosing whom to kill, or a full disk whom to end.

use super::create::disk_free;
use super::ending;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::vm::record::VmRecord;
use banger_api::{ProblemCode, VmState};
use banger_names::ByteSize;
use std::sync::Arc;

/// Refuses a start for which the host has too little memory available.
pub(super) async fn check_memory(
    daemon: &Arc<Daemon>,
    record: &VmRecord,
    huge_pages: bool,
) -> Result<(), Refusal> {
    let text = tokio::fs::read_to_string("/proc/meminfo").await;
    let text = text.map_err(|error| Refusal::io("read \"/proc/meminfo\"", &error))?;
    let Some(available) = available(&text, huge_pages) else {
        return Ok(()); // not a kernel that says so
    };
    // What starts now has not taken its memory yet.
    let starting = daemon.vms().all().into_iter().filter_map(|vm| {
        let other = vm.now().record;
        (other.state == VmState::Starting && other.id != record.id).then_some(other.plan.memory.0)
    });
    let promised = ByteSize(starting.sum());
    judge(record, available, promised)
}

/// Refuses a start that would let a VM write to a disk of the host's that is nearly full.
pub(super) fn check_disk(daemon: &Daemon, record: &VmRecord) -> Result<(), Refusal> {
    let state = &daemon.dirs().state;
    let (free, reserve) = (disk_free(state)?, daemon.limits().reserve);
    if free >= reserve {
        return Ok(());
    }
    let name = record.plan.name.as_str();
    Err(Refusal::new(
        ProblemCode::Exhausted,
        format!(
            "start VM {name:?}: {free} are free at {}, {reserve} must stay free",
            state.display()
        ),
    )
    .hint(ending::MAKE_ROOM))
}

fn judge(record: &VmRecord, available: ByteSize, promised: ByteSize) -> Result<(), Refusal> {
    let asked = record.plan.memory;
    let free = ByteSize(available.0.saturating_sub(promised.0));
    if asked <= free {
        return Ok(());
    }
    let name = record.plan.name.as_str();
    Err(Refusal::new(
        ProblemCode::Exhausted,
        format!("start VM {name:?}: it may take {asked} of memory, the host has {free} available"),
    )
    .hint("stop another VM (banger vm stats shows what they use), or give this one less: --memory"))
}

/// What the kernel says can be had without swapping; with `huge_pages` the reserved ones too.
fn available(meminfo: &str, huge_pages: bool) -> Option<ByteSize> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let reserved = || field("HugePages_Free:")?.checked_mul(field("Hugepagesize:")?);
    let huge = huge_pages.then(reserved).flatten().unwrap_or(0);
    let kib = field("MemAvailable:")?.checked_add(huge)?;
    kib.checked_mul(1024).map(ByteSize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::record::tests::record;

    #[test]
    fn a_vm_that_does_not_fit_is_refused_by_name_also_beside_others_that_start() {
        let mut vm = record("big");
        vm.plan.memory = ByteSize::gib(2);
        assert!(judge(&vm, ByteSize::gib(2), ByteSize(0)).is_ok());
        let refused = judge(&vm, ByteSize::gib(3), ByteSize::gib(2)).unwrap_err();
        assert_eq!(refused.0.code, ProblemCode::Exhausted);
        assert!(
            refused.0.message.contains("\"big\": it may take 2 GiB"),
            "{refused}"
        );
        assert!(refused.0.message.contains("1 GiB available"), "{refused}");
    }

    #[test]
    fn the_kernels_estimate_is_read() {
        let text =
            "MemTotal: 9 kB\nMemAvailable:   2048 kB\nHugePages_Free:  3\nHugepagesize: 2048 kB\n";
        assert_eq!(available(text, false), Some(ByteSize::mib(2)));
        assert_eq!(available(text, true), Some(ByteSize::mib(8)));
        assert_eq!(available("MemTotal: 9 kB\n", true), None);
    }
}
