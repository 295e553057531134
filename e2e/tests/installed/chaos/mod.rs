//! Whatever is killed in the middle of whatever is asked, at system calls spread over the whole of
//! it: what was acknowledged is there, nothing is left, and the daemon answers again at once. Beside
//! it runs a VM that must not notice.
//!
//! `BANGER_CHAOS_POINTS` says how often for each operation, spread over its victims; otherwise it is
//! [`POINTS`] or [`FEWER`].

mod image;
mod installation;
mod vms;

use e2e::tracer::Traced;
use std::time::{Duration, Instant};
pub(crate) use vms::main_process;

/// How often for each operation, unless it is said.
const POINTS: usize = 20;

/// How often for what is most like another operation: an upgrade and uninstalling are like installing,
/// an import is like a build.
const FEWER: usize = 8;

#[test]
fn vms_are_as_they_were_said_to_be_whatever_is_killed() {
    crate::configured();
    installation::install();
    crate::stored();
    sum_up(&vms::killed());
}

#[test]
fn images_are_whole_or_not_there_whatever_is_killed() {
    crate::configured();
    installation::install();
    sum_up(&[image::killed()]);
}

#[test]
fn installations_and_upgrades_can_be_finished_and_removed_whatever_is_killed() {
    crate::configured();
    sum_up(&installation::installing_killed());
}

#[test]
fn uninstalling_can_be_finished_whatever_is_killed() {
    crate::configured();
    sum_up(&[installation::uninstalling_killed()]);
}

/// How often for an operation, unless it is said.
fn points_or(usual: usize) -> usize {
    let said = std::env::var("BANGER_CHAOS_POINTS").ok();
    said.map_or(usual, |points| points.parse().unwrap())
}

/// Shows what came of it all, and removes what the host did not have before.
fn sum_up(rows: &[Row]) {
    println!("{HEADING}");
    for row in rows {
        println!("{}", row.line());
    }
    installation::purge();
    crate::forget();
    let is_well = |row: &Row| row.lost + row.leaked == 0;
    assert!(rows.iter().all(is_well));
}

const HEADING: &str =
    "operation         victim     calls  points  in a call  lost  leaked  answers s  in all s";

/// What came of one operation and one victim.
struct Row {
    operation: &'static str,
    victim: &'static str,
    /// How many system calls the victim makes meanwhile.
    calls: usize,
    points: usize,
    /// Those at which it was killed in a call; the rest when all was done.
    struck: usize,
    lost: usize,
    leaked: usize,
    /// The longest that it took until the daemon answered, where that was killed.
    answers: Option<Duration>,
    begun: Instant,
    took: Duration,
}

impl Row {
    fn new(operation: &'static str, victim: &'static str, whole: Traced) -> Self {
        Self {
            operation,
            victim,
            calls: whole.stops / 2,
            points: 0,
            struck: 0,
            lost: 0,
            leaked: 0,
            answers: None,
            begun: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// One point more: what was wrong is told at once, with where it was.
    fn add(&mut self, at: usize, traced: Traced, lost: &[String], left: &[String]) {
        self.points += 1;
        self.struck += usize::from(traced.struck.is_some());
        self.lost += lost.len();
        self.leaked += left.len();
        self.took = self.begun.elapsed();
        let Self {
            operation, victim, ..
        } = self;
        if !lost.is_empty() || !left.is_empty() {
            println!("{operation}, {victim} killed at {at}: lost {lost:#?}, left {left:#?}");
        }
    }

    fn answered(&mut self, after: Duration) {
        self.answers = Some(self.answers.unwrap_or_default().max(after));
    }

    fn line(&self) -> String {
        let answers = self.answers.map_or("-".to_owned(), |after| {
            format!("{:.1}", after.as_secs_f64())
        });
        format!(
            "{:<16}  {:<9} {:>6}  {:>6}  {:>9}  {:>4}  {:>6}  {answers:>9}  {:>8.0}",
            self.operation,
            self.victim,
            self.calls,
            self.points,
            self.struck,
            self.lost,
            self.leaked,
            self.took.as_secs_f64()
        )
    }
}
