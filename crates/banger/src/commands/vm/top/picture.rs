//! The picture that `vm top` shows: pure, from what was read to lines that fit the terminal.

use super::columns::{BAR, Column, GAP, Layout, cpu_share, cut, memory_share, pad};
use super::looks::Looks;
use crate::ui::sanitize;
use crate::usage::Usage;
use banger_names::{ByteSize, VmId};
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

/// How many readings of a VM's CPU are kept and drawn.
pub(super) const HISTORY: usize = 20;

/// What rows are sorted by; the largest come first, names in their own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Order {
    Cpu,
    Memory,
    Disk,
    Network,
    Name,
}

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct Picture {
    rows: Vec<Usage>,
    /// The share of its CPUs that each VM used at the last readings, the newest last.
    history: HashMap<VmId, VecDeque<f64>>,
    layout: Layout,
    order: Order,
    is_reversed: bool,
    first: usize,
    failure: Option<String>,
    looks: Looks,
}

impl Picture {
    pub(super) fn new(order: Order, looks: Looks) -> Self {
        Self {
            rows: Vec::new(),
            history: HashMap::new(),
            layout: Layout::default(),
            order,
            is_reversed: false,
            first: 0,
            failure: None,
            looks,
        }
    }

    /// Shows this from now on.
    pub(super) fn take(&mut self, rows: Vec<Usage>) {
        let mut before = std::mem::take(&mut self.history);
        for row in &rows {
            let id = &row.total.id;
            let mut shares = before.remove(id).unwrap_or_default();
            if shares.len() == HISTORY {
                shares.pop_front();
            }
            shares.push_back(cpu_share(row));
            self.history.insert(id.clone(), shares);
        }
        self.layout.widen(&rows);
        self.rows = rows;
        self.failure = None;
        self.arrange();
    }

    /// Shows that nothing new could be read, beside what was.
    pub(super) fn fail(&mut self, why: &str) {
        self.failure = Some(why.to_owned());
    }

    pub(super) fn sort(&mut self, order: Order) {
        self.order = order;
        self.is_reversed = false;
        self.arrange();
    }

    pub(super) fn reverse(&mut self) {
        self.is_reversed = !self.is_reversed;
        self.arrange();
    }

    pub(super) fn scroll(&mut self, is_down: bool) {
        self.first = if is_down {
            self.first.saturating_add(1)
        } else {
            self.first.saturating_sub(1)
        };
    }

    fn arrange(&mut self) {
        let order = self.order;
        self.rows.sort_by(|a, b| {
            let sum = |one: Option<u64>, other: Option<u64>| {
                one.unwrap_or(0).saturating_add(other.unwrap_or(0))
            };
            let disk = |row: &Usage| sum(row.disk_read_per_s, row.disk_written_per_s);
            let network = |row: &Usage| sum(row.net_received_per_s, row.net_sent_per_s);
            let largest_first = match order {
                Order::Cpu => {
                    let share = |row: &Usage| row.cpu_percent.unwrap_or(-1.0);
                    share(b).total_cmp(&share(a))
                }
                Order::Memory => b.total.memory_used.cmp(&a.total.memory_used),
                Order::Disk => disk(b).cmp(&disk(a)),
                Order::Network => network(b).cmp(&network(a)),
                Order::Name => Ordering::Equal,
            };
            largest_first.then_with(|| a.total.name.as_str().cmp(b.total.name.as_str()))
        });
        if self.is_reversed {
            self.rows.reverse();
        }
    }

    /// The lines for a terminal of this size.
    pub(super) fn draw(&mut self, cols: usize, rows: usize) -> Vec<String> {
        let room = rows.saturating_sub(4);
        self.first = self.first.min(self.rows.len().saturating_sub(room));
        let columns = self.layout.fitting(cols);
        let mut lines = vec![
            self.looks.bold(&cut(&self.summary(), cols)),
            String::new(),
            self.looks.inverse(&pad(&self.headings(&columns), cols)),
        ];
        for row in self.rows.iter().skip(self.first).take(room) {
            lines.push(self.row(row, &columns, cols));
        }
        if self.rows.is_empty() {
            lines.push(cut("no VM runs: banger vm start NAME", cols));
        }
        while lines.len() + 1 < rows {
            lines.push(String::new());
        }
        let keys = "sort: c cpu  m memory  d disk  n network  a name   r reverse   q leave";
        lines.push(self.looks.faint(&cut(keys, cols)));
        lines.truncate(rows);
        lines
    }

    fn headings(&self, columns: &[Column]) -> String {
        let marked = |column: &Column| {
            let mark = match (column.order() == Some(self.order), self.is_reversed) {
                (false, _) => "",
                (true, false) => self.looks.down(),
                (true, true) => self.looks.up(),
            };
            self.layout
                .place(*column, &format!("{}{mark}", column.heading()))
        };
        columns.iter().map(marked).collect::<Vec<_>>().join(GAP)
    }

    fn row(&self, row: &Usage, columns: &[Column], cols: usize) -> String {
        if columns.is_empty() {
            return cut(row.total.name.as_str(), cols);
        }
        let cell = |column: &Column| match column {
            Column::CpuGraph => {
                let shares = self.history.get(&row.total.id);
                self.looks
                    .graph(shares.into_iter().flatten().copied(), HISTORY)
            }
            Column::MemoryBar => self.looks.bar(memory_share(row), BAR),
            other => self.layout.place(*other, &other.text(row)),
        };
        columns.iter().map(cell).collect::<Vec<_>>().join(GAP)
    }

    fn summary(&self) -> String {
        if let Some(failure) = &self.failure {
            return format!("banger: {}", sanitize::line(failure));
        }
        let cpu: f64 = self.rows.iter().filter_map(|row| row.cpu_percent).sum();
        let sum = |of: fn(&Usage) -> u64| ByteSize(self.rows.iter().map(of).sum());
        let used = sum(|row| row.total.memory_used.map_or(0, |used| used.0));
        let given = sum(|row| row.total.memory.0);
        let count = self.rows.len();
        let vms = if count == 1 { "VM" } else { "VMs" };
        format!("banger: {count} {vms}, CPU {cpu:.1}%, memory {used} of {given}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Meter;
    use crate::usage::tests::reading;

    fn picture() -> Picture {
        let mut meter = Meter::default();
        meter.read(vec![
            reading("a", 1, 0, 0),
            reading("b", 3, 0, 0),
            reading("c", 2, 0, 0),
        ]);
        let rows = meter.read(vec![
            reading("a", 1, 1000, 1500),
            reading("b", 3, 1000, 100),
            reading("c", 2, 1000, 700),
        ]);
        let mut picture = Picture::new(Order::Cpu, Looks::PLAIN);
        picture.take(rows);
        picture
    }

    fn names(lines: &[String]) -> String {
        lines[3..]
            .iter()
            .filter(|line| line.contains('%'))
            .map(|line| &line[..1])
            .collect()
    }

    #[test]
    fn rows_are_sorted_by_the_key_and_turned_around() {
        let mut picture = picture();
        assert_eq!(names(&picture.draw(200, 20)), "acb");
        picture.sort(Order::Memory);
        assert_eq!(names(&picture.draw(200, 20)), "bca");
        picture.reverse();
        assert_eq!(names(&picture.draw(200, 20)), "acb");
        picture.sort(Order::Name);
        assert_eq!(names(&picture.draw(200, 20)), "abc");
    }

    #[test]
    fn a_picture_fits_terminals_of_every_size() {
        let mut picture = picture();
        for (cols, rows) in [(200, 50), (80, 24), (20, 5), (1, 1), (0, 0), (80, 6)] {
            let lines = picture.draw(cols, rows);
            assert!(lines.len() <= rows, "{cols} {rows}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= cols),
                "{lines:?}"
            );
        }
        let shown = picture.draw(200, 20);
        assert_eq!(
            shown[0],
            "banger: 3 VMs, CPU 230.0%, memory 600 MiB of 3 GiB"
        );
        assert!(shown[3].contains("150.0% "), "{shown:?}");
        assert!(
            shown[3].contains("[|         ]  100 MiB / 1 GiB"),
            "{shown:?}"
        );
        // Only as many as fit, and the others by scrolling.
        assert_eq!(names(&picture.draw(200, 6)), "ac");
        for _ in 0..9 {
            picture.scroll(true);
        }
        assert_eq!(names(&picture.draw(200, 6)), "cb");
        picture.fail("the daemon \x1b]0;x\x07");
        assert_eq!(picture.draw(200, 6)[0], "banger: the daemon \\x1b]0;x\\x07");
    }
}
