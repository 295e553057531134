//! The picture that `vm top` shows: pure, from what was read to lines that fit the terminal.

use crate::ui::sanitize;
use crate::usage::{Usage, or_dash, per_second, percent};
use banger_names::ByteSize;
use std::cmp::Ordering;

/// How wide a bar is, in characters.
const BAR: usize = 10;

/// What rows are sorted by; the largest come first, names in their own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Order {
    Cpu,
    Memory,
    Disk,
    Network,
    Name,
}

/// The columns: heading, width, and what sorts by it.
const COLUMNS: [(&str, usize, Option<Order>); 7] = [
    ("NAME", 20, Some(Order::Name)),
    ("CPU", 20, Some(Order::Cpu)),
    ("MEMORY", 31, Some(Order::Memory)),
    ("READ/WRITE", 24, Some(Order::Disk)),
    ("RECEIVED/SENT", 24, Some(Order::Network)),
    ("DISK USED", 10, None),
    ("ID", 11, None),
];

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct Picture {
    rows: Vec<Usage>,
    order: Order,
    is_reversed: bool,
    first: usize,
    failure: Option<String>,
    is_styled: bool,
}

impl Picture {
    pub(super) fn new(order: Order, is_styled: bool) -> Self {
        Self {
            rows: Vec::new(),
            order,
            is_reversed: false,
            first: 0,
            failure: None,
            is_styled,
        }
    }

    /// Shows this from now on.
    pub(super) fn take(&mut self, rows: Vec<Usage>) {
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
        let mut lines = vec![cut(&self.summary(), cols), String::new()];
        let headings = COLUMNS.map(|(heading, width, order)| {
            let is_sorted = order == Some(self.order);
            let mark = match (is_sorted, self.is_reversed) {
                (true, false) => "*",
                (true, true) => "*r",
                _ => "",
            };
            pad(&format!("{heading}{mark}"), width)
        });
        lines.push(self.style(&cut(&headings.join(" "), cols)));
        for row in self.rows.iter().skip(self.first).take(room) {
            lines.push(cut(&cells(row).join(" "), cols));
        }
        if self.rows.is_empty() {
            lines.push(cut("no VM runs: banger vm start NAME", cols));
        }
        while lines.len() + 1 < rows {
            lines.push(String::new());
        }
        let keys = "sort: c cpu  m memory  d disk  n network  a name   r reverse   q leave";
        lines.push(self.style(&cut(keys, cols)));
        lines.truncate(rows);
        lines
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

    fn style(&self, text: &str) -> String {
        if self.is_styled {
            format!("\x1b[7m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn cells(row: &Usage) -> Vec<String> {
    let total = &row.total;
    let share = row.cpu_percent.unwrap_or(0.0) / 100.0 / f64::from(total.cpus.max(1));
    let used = total.memory_used.map_or(0, |used| used.0);
    let texts = [
        sanitize::line(total.name.as_str()),
        format!("{} {:>7}", bar(share), percent(row.cpu_percent)),
        format!(
            "{} {:>8} / {}",
            bar(ratio(used, total.memory.0)),
            or_dash(total.memory_used),
            total.memory
        ),
        pair(row.disk_read_per_s, row.disk_written_per_s),
        pair(row.net_received_per_s, row.net_sent_per_s),
        total.disk_used.to_string(),
        total.id.to_string(),
    ];
    let widths = COLUMNS.iter().map(|(_, width, _)| *width);
    texts
        .iter()
        .zip(widths)
        .map(|(text, width)| pad(text, width))
        .collect()
}

fn pair(one: Option<u64>, other: Option<u64>) -> String {
    match (one, other) {
        (None, None) => "-".to_owned(),
        _ => format!("{} {}", per_second(one), per_second(other)),
    }
}

/// How much of `whole` is `part`, to a thousandth.
fn ratio(part: u64, whole: u64) -> f64 {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 1000.0
}

fn bar(share: f64) -> String {
    let full = (1..=BAR)
        .filter(|step| {
            let middle = (f64::from(u8::try_from(*step).unwrap_or(u8::MAX)) - 0.5) / 10.0;
            share >= middle
        })
        .count();
    format!("[{}{}]", "|".repeat(full), " ".repeat(BAR - full))
}

fn pad(text: &str, width: usize) -> String {
    format!("{:<width$}", cut(text, width))
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
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
        let mut picture = Picture::new(Order::Cpu, false);
        picture.take(rows);
        picture
    }

    fn names(lines: &[String]) -> String {
        lines[3..]
            .iter()
            .filter(|line| line.contains("vm-"))
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
        assert!(shown[3].contains("[||||||||  ]  150.0%"), "{shown:?}");
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
