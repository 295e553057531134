//! The columns of `vm top`: what each says of a VM, how wide it is, and which of them fit.

use super::picture::Order;
use crate::usage::{Usage, or_dash, percent};
use banger_names::ByteSize;

/// What lies between two columns.
pub(super) const GAP: &str = "  ";
/// How wide the bar of a VM's memory is, in characters, with its brackets.
pub(super) const BAR: usize = 12;

/// In the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    CpuGraph,
    Cpu,
    MemoryBar,
    Memory,
    Read,
    Written,
    Received,
    Sent,
    Disk,
    Id,
}

use Column::{Cpu, CpuGraph, Disk, Id, Memory, MemoryBar, Name, Read, Received, Sent, Written};

const ALL: [Column; 11] = [
    Name, CpuGraph, Cpu, MemoryBar, Memory, Read, Written, Received, Sent, Disk, Id,
];

/// What a narrow terminal goes without, in this order.
const SPARED: [Column; 11] = [
    Id, Disk, MemoryBar, CpuGraph, Sent, Received, Written, Read, Memory, Cpu, Name,
];

impl Column {
    pub(super) fn heading(self) -> &'static str {
        match self {
            Name => "NAME",
            Cpu => "CPU",
            CpuGraph | MemoryBar => "",
            Memory => "MEMORY",
            Read => "READ/s",
            Written => "WRITTEN/s",
            Received => "RECEIVED/s",
            Sent => "SENT/s",
            Disk => "DISK",
            Id => "ID",
        }
    }

    /// What sorts by it.
    pub(super) fn order(self) -> Option<Order> {
        match self {
            Name => Some(Order::Name),
            Cpu => Some(Order::Cpu),
            Memory => Some(Order::Memory),
            Read | Written => Some(Order::Disk),
            Received | Sent => Some(Order::Network),
            CpuGraph | MemoryBar | Disk | Id => None,
        }
    }

    /// What it says of a VM; of pictures nothing.
    pub(super) fn text(self, row: &Usage) -> String {
        let total = &row.total;
        let bytes = |count: Option<u64>| or_dash(count.map(ByteSize));
        match self {
            Name => total.name.to_string(),
            Cpu => percent(row.cpu_percent),
            CpuGraph | MemoryBar => String::new(),
            Memory => format!("{} / {}", or_dash(total.memory_used), total.memory),
            Read => bytes(row.disk_read_per_s),
            Written => bytes(row.disk_written_per_s),
            Received => bytes(row.net_received_per_s),
            Sent => bytes(row.net_sent_per_s),
            Disk => total.disk_used.to_string(),
            Id => total.id.to_string(),
        }
    }
}

/// How wide the columns are. They only grow, so that nothing jumps while somebody reads.
#[derive(Debug)]
pub(super) struct Layout {
    widths: [usize; ALL.len()],
}

impl Default for Layout {
    fn default() -> Self {
        let widths = ALL.map(|column| match column {
            CpuGraph => super::picture::HISTORY,
            MemoryBar => BAR,
            // With room for the mark of what is sorted by.
            other => other.heading().len() + usize::from(other.order().is_some()),
        });
        Self { widths }
    }
}

impl Layout {
    /// Makes room for what these rows say.
    pub(super) fn widen(&mut self, rows: &[Usage]) {
        for (column, width) in ALL.iter().zip(&mut self.widths) {
            let said = rows.iter().map(|row| column.text(row).chars().count());
            *width = said.fold(*width, usize::max);
        }
    }

    fn width(&self, column: Column) -> usize {
        let at = ALL.iter().position(|one| *one == column);
        at.map_or(0, |at| self.widths[at])
    }

    /// The columns that a terminal of this width has room for.
    pub(super) fn fitting(&self, cols: usize) -> Vec<Column> {
        let mut columns = ALL.to_vec();
        for spared in SPARED {
            let wide: usize = columns
                .iter()
                .map(|column| self.width(*column) + GAP.len())
                .sum();
            if wide <= cols + GAP.len() {
                break;
            }
            columns.retain(|column| *column != spared);
        }
        columns
    }

    /// A text as wide as its column: names begin, numbers end at its edge.
    pub(super) fn place(&self, column: Column, text: &str) -> String {
        let width = self.width(column);
        match column {
            Name | Id => pad(text, width),
            _ => format!("{:>width$}", cut(text, width)),
        }
    }
}

/// The share of its CPUs that a VM uses; 1 is all of them.
pub(super) fn cpu_share(row: &Usage) -> f64 {
    row.cpu_percent.unwrap_or(0.0) / 100.0 / f64::from(row.total.cpus.max(1))
}

/// The share of its memory that a VM's process holds, to a thousandth.
pub(super) fn memory_share(row: &Usage) -> f64 {
    let used = row.total.memory_used.map_or(0, |used| used.0);
    let permille = u128::from(used) * 1000 / u128::from(row.total.memory.0.max(1));
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 1000.0
}

pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{:<width$}", cut(text, width))
}

pub(super) fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
