//! From two readings of counters to what a VM uses now.

use crate::ui::table::Tabular;
use banger_api::StatsView;
use banger_names::{ByteSize, VmId};
use serde::Serialize;
use std::collections::HashMap;

/// What a VM uses. Rates are per second, over the time between the last two readings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Usage {
    #[serde(flatten)]
    pub total: StatsView,
    /// Of one CPU: 150 is one and a half.
    pub cpu_percent: Option<f64>,
    pub disk_read_per_s: Option<u64>,
    pub disk_written_per_s: Option<u64>,
    pub net_received_per_s: Option<u64>,
    pub net_sent_per_s: Option<u64>,
}

/// Makes rates from readings.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: HashMap<VmId, StatsView>,
}

impl Meter {
    /// What the VMs use, now that this was read. The first reading of a VM has no rates.
    pub(crate) fn read(&mut self, stats: Vec<StatsView>) -> Vec<Usage> {
        let mut last = std::mem::take(&mut self.last);
        stats
            .into_iter()
            .map(|now| {
                let usage = between(last.remove(&now.id).as_ref(), &now);
                self.last.insert(now.id.clone(), now);
                usage
            })
            .collect()
    }
}

fn between(before: Option<&StatsView>, now: &StatsView) -> Usage {
    let rate = |counter: fn(&StatsView) -> Option<u64>| {
        let before = before?;
        let elapsed = now.at_ns.checked_sub(before.at_ns).filter(|&ns| ns > 0)?;
        // A counter that went back is that of another VMM: the VM was restarted.
        let grown = counter(now)?.checked_sub(counter(before)?)?;
        Some(u128::from(grown) * 1_000_000_000 / u128::from(elapsed))
    };
    let per_s = |counter| rate(counter).map(|rate| u64::try_from(rate).unwrap_or(u64::MAX));
    // Nanoseconds of CPU time a second, in tenths of a percent.
    let permille = rate(|stats| stats.cpu_ns).map(|ns| u32::try_from(ns / 1_000_000));
    Usage {
        total: now.clone(),
        cpu_percent: permille.map(|permille| f64::from(permille.unwrap_or(u32::MAX)) / 10.0),
        disk_read_per_s: per_s(|stats| stats.disk_read),
        disk_written_per_s: per_s(|stats| stats.disk_written),
        net_received_per_s: per_s(|stats| stats.net_received),
        net_sent_per_s: per_s(|stats| stats.net_sent),
    }
}

/// A value, or `-` where it is not known.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A share of a CPU for people.
pub(crate) fn percent(share: Option<f64>) -> String {
    or_dash(share.map(|share| format!("{share:.1}%")))
}

impl Tabular for Usage {
    const HEADINGS: &'static [&'static str] = &[
        "NAME", "CPU", "MEMORY", "DISK", "READ", "WRITTEN", "RECEIVED", "SENT",
    ];

    fn cells(&self) -> Vec<String> {
        let total = &self.total;
        let bytes = |count: Option<u64>| or_dash(count.map(ByteSize));
        vec![
            total.name.to_string(),
            percent(self.cpu_percent),
            format!("{} / {}", or_dash(total.memory_used), total.memory),
            format!("{} / {}", total.disk_used, total.disk),
            bytes(total.disk_read),
            bytes(total.disk_written),
            bytes(total.net_received),
            bytes(total.net_sent),
        ]
    }

    fn id(&self) -> String {
        self.total.id.to_string()
    }

    fn name(&self) -> String {
        self.total.name.to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A reading of the VM `name`, `ms` after boot.
    pub(crate) fn reading(name: &str, bits: u32, ms: u64, cpu_ms: u64) -> StatsView {
        StatsView {
            id: VmId::from_bits(bits),
            name: name.parse().unwrap(),
            at_ns: ms * 1_000_000,
            cpus: 2,
            cpu_ns: Some(cpu_ms * 1_000_000),
            memory: ByteSize::gib(1),
            memory_used: Some(ByteSize::mib(u64::from(bits) * 100)),
            disk: ByteSize::gib(16),
            disk_used: ByteSize::mib(5),
            disk_read: Some(ms * 10),
            disk_written: None,
            net_received: None,
            net_sent: None,
        }
    }

    #[test]
    fn rates_are_between_readings_of_one_vmm() {
        let mut meter = Meter::default();
        let first = meter.read(vec![reading("a", 1, 1000, 500)]);
        assert_eq!(
            (first[0].cpu_percent, first[0].disk_read_per_s),
            (None, None)
        );
        let second = meter.read(vec![reading("a", 1, 3000, 3500), reading("b", 2, 3000, 0)]);
        assert_eq!(second[0].cpu_percent, Some(150.0));
        assert_eq!(second[0].disk_read_per_s, Some(10_000));
        assert_eq!(
            (second[0].disk_written_per_s, second[1].cpu_percent),
            (None, None)
        );
        // Restarted in between: its counters begin anew.
        let third = meter.read(vec![reading("a", 1, 4000, 100)]);
        assert_eq!(third[0].cpu_percent, None);
        assert_eq!(percent(third[0].cpu_percent), "-");
    }
}
