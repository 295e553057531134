//! `cargo xtask bench boot --lab`: ratios taken in the lab whose clock counts instructions, by one
//! program on that one clock, with Firecracker as the engine.
//!
//! A millisecond there is a million instructions of the emulated host and its guests: no figure is
//! a hardware's, but they repeat, and their ratios carry over.

use super::Options;
use super::home::Home;
use super::inside::{Boots, Containers, Execs, Jailed, LAB_BROKE};
use super::lab_jailed;
use super::report::{self, Row};
use super::store::LabStore;
use crate::lab::{self, Flavour, HostDied, Lab, TimedOut};
use crate::{cargo, must, top};
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long one attempt may take, the lab's start included. Labs that count instructions were seen
/// to hang after some 20 minutes.
const LIMIT: Duration = Duration::from_secs(13 * 60);

/// How long one measurement may take. On a quiet machine the longest takes a minute.
const STEP_LIMIT: Duration = Duration::from_secs(8 * 60);

/// Where things lie in the lab.
pub(super) const BASE: &str = "/srv/bench";

/// The aims for boots and for execs.
pub(super) const BOOT_AIM: f64 = 1.35;
const EXEC_AIM: f64 = 2.5;

/// All that was found.
struct Found {
    /// By kernel.
    boots: Vec<(String, Boots)>,
    execs: Vec<(String, Execs)>,
    containers: Option<Containers>,
    /// By storage.
    jailed: Vec<(&'static str, Jailed)>,
}

impl Found {
    /// The kernels whose console does not show the agent's line.
    fn mute_kernels(&self) -> Vec<String> {
        let mute = self
            .boots
            .iter()
            .filter(|(_, boots)| boots.raw_line_ms.is_empty());
        mute.map(|(kernel, _)| kernel.clone()).collect()
    }
}

/// Measures, once more on a new lab if the first one dies, and prints the table.
pub(super) fn measure(options: &Options) -> Result<ExitCode> {
    let home = Home::new()?;
    let program = this_program()?;
    let store = LabStore::assemble(&home, options.lean.as_deref())?;
    let pushed = [home.dist().to_owned(), program, store.home()];
    for attempt in 1.. {
        let start = Instant::now();
        match attempt_once(options, &store, &pushed) {
            Ok(found) => {
                println!("virtual milliseconds, measured in {:.0?}", start.elapsed());
                let mute = found.mute_kernels();
                let executed = lab_jailed::executed(&found.jailed);
                report::tell(&rows(found), options.json.as_deref())?;
                for kernel in mute {
                    println!(
                        "\n{kernel}: what user space says does not come out of the console; the \
                         agent's call alone was measured"
                    );
                }
                print!("{executed}");
                break;
            }
            Err(error) if is_dead(&error) => {
                eprintln!("bench: {error:#}");
                if attempt == 2 {
                    eprintln!("bench: the lab died twice; nothing was measured");
                    return Ok(ExitCode::from(LAB_BROKE));
                }
                eprintln!("bench: the lab broke, not what it measures; once more on a new one");
            }
            Err(error) => return Err(error),
        }
    }
    if store.lean.is_none() && !options.jailed {
        println!(
            "\nno lean kernel was measured: make one by `banger kernel build` (some ten minutes) \
             and name its store by --lean BANGER_HOME"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Whatever is run in the lab bounds its own waits, on the lab's clock, far below ours: when ours
/// runs out, that clock or the whole host stands still.
fn is_dead(error: &anyhow::Error) -> bool {
    error.is::<HostDied>() || error.is::<TimedOut>() || error.is::<GuestHung>()
}

/// The bare Firecracker did not boot in the lab.
#[derive(Debug)]
struct GuestHung(String);

impl fmt::Display for GuestHung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a guest hangs in the lab: {}", self.0)
    }
}

impl std::error::Error for GuestHung {}

/// This program as it is to be pushed: built for release, since it is one side of some figures.
fn this_program() -> Result<PathBuf> {
    must(&mut cargo(&["build", "--release", "--package", "xtask"]))?;
    Ok(top().join("target/release/xtask"))
}

/// A lab, and what is left of the time for it.
pub(super) struct Host {
    lab: Lab,
    deadline: Instant,
}

/// Both halves, each on a lab of its own.
fn attempt_once(options: &Options, store: &LabStore, pushed: &[PathBuf]) -> Result<Found> {
    let mut found = Found {
        boots: Vec::new(),
        execs: Vec::new(),
        containers: None,
        jailed: Vec::new(),
    };
    if !options.jailed {
        rootless(options, store, &Host::up(pushed)?, &mut found)?;
    }
    found.jailed = lab_jailed::measure(options, store, &Host::up(pushed)?)?;
    Ok(found)
}

/// Without an installation, as an ordinary user.
fn rootless(options: &Options, store: &LabStore, host: &Host, found: &mut Found) -> Result<()> {
    let runs = options.runs.to_string();
    let kernels = [Some(&store.debian), store.lean.as_ref()];
    for kernel in kernels.into_iter().flatten() {
        let words = |what| [what, kernel.as_str(), runs.as_str()];
        found
            .boots
            .push((kernel.clone(), host.inside(true, &words("boots"))?));
        found
            .execs
            .push((kernel.clone(), host.inside(true, &words("execs"))?));
    }
    let image = format!("{BASE}/home/{}", store.image.display());
    let rootfs = format!("{BASE}/rootfs");
    host.must(&["mkdir", &rootfs])?;
    host.must(&["mount", "-o", "loop,ro,noload", &image, &rootfs])?;
    found.containers = Some(host.inside(false, &["containers", &runs])?);
    Ok(())
}

impl Host {
    /// A lab with what is pushed there; it ends with this value.
    fn up(pushed: &[PathBuf]) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let lab = Lab::up(&lab::Options {
            name: format!("bench-{}", std::process::id()),
            flavour: Flavour::Count,
            ..lab::Options::default()
        })?;
        lab.push(pushed, BASE)?;
        let host = Self { lab, deadline };
        host.must(&["chown", "-R", "dev:dev", BASE])?;
        Ok(host)
    }

    pub(super) fn must(&self, argv: &[&str]) -> Result<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let output = self.lab.run(argv, left.min(STEP_LIMIT))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.code {
            0 => {
                eprint!("{said}");
                Ok(output.stdout)
            }
            code if code == i32::from(LAB_BROKE) => Err(GuestHung(said.trim().to_owned()).into()),
            code => bail!("{argv:?} in the lab ended with {code}: {}", said.trim()),
        }
    }

    /// Has this program measure something in the lab, as the ordinary user or as root.
    pub(super) fn inside<T: DeserializeOwned>(&self, as_user: bool, words: &[&str]) -> Result<T> {
        let program = format!("{BASE}/xtask");
        let user = [
            "setpriv",
            "--reuid=dev",
            "--regid=dev",
            "--init-groups",
            "--",
        ];
        let user = if as_user { &user[..] } else { &[] };
        let argv = [user, &[&program, "bench", "inside"], words].concat();
        let start = Instant::now();
        let said = self.must(&argv)?;
        eprintln!("bench: {} took {:.0?}", words.join(" "), start.elapsed());
        serde_json::from_slice(&said).with_context(|| format!("read what {words:?} found"))
    }
}

fn rows(found: Found) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kernel, boots) in found.boots {
        rows.extend(boot_rows(&kernel, boots));
    }
    for (kernel, execs) in found.execs {
        rows.extend(exec_rows(&kernel, execs));
    }
    if let Some(Containers { crun_ms, runc_ms }) = found.containers {
        rows.push(Row::of("crun run true, the same image", "ms", crun_ms));
        rows.push(Row::of("runc run true, the same image", "ms", runc_ms));
    }
    for (storage, jailed) in found.jailed {
        rows.extend(lab_jailed::rows(storage, jailed));
    }
    rows
}

fn boot_rows(kernel: &str, boots: Boots) -> Vec<Row> {
    let ms = |what: &str, values| Row::of(format!("{kernel}: {what}"), "ms", values);
    let to_raw = |what: &str, values: &[f64]| {
        Row::ratio(format!("{kernel}: {what} / raw"), values, &boots.raw_ms).at_most(BOOT_AIM)
    };
    let ready = to_raw("banger run to agent ready", &boots.ready_ms);
    let whole = to_raw("banger run to its end", &boots.whole_ms);
    let mut rows = vec![ms("raw firecracker to agent ready", boots.raw_ms)];
    if !boots.raw_line_ms.is_empty() {
        rows.push(ms("  and to its line on the console", boots.raw_line_ms));
    }
    rows.extend([
        ms("banger run to agent ready", boots.ready_ms),
        ms("  of that the daemon's boot_ms", boots.daemon_ms),
        ms("banger run to its end", boots.whole_ms),
        ready,
        whole,
    ]);
    rows
}

fn exec_rows(kernel: &str, execs: Execs) -> Vec<Row> {
    let ms = |what: &str, values| Row::of(format!("{kernel}: {what}"), "ms", values);
    let fork_ms = execs.guest.fork_ms;
    let to_fork = |what: &str, values: &[f64]| {
        Row::ratio(
            format!("{kernel}: {what} / fork and exec"),
            values,
            &fork_ms,
        )
        .at_most(EXEC_AIM)
    };
    let ratios = [
        to_fork("exec over the channel", &execs.channel_ms),
        to_fork("exec through the daemon", &execs.daemon_ms),
        to_fork("banger exec", &execs.command_ms),
    ];
    let mut rows = vec![
        ms("the guest's own fork and exec", fork_ms.clone()),
        ms("the guest's own posix_spawn", execs.guest.spawn_ms),
        ms("exec over the channel", execs.channel_ms),
        ms("exec through the daemon", execs.daemon_ms),
        ms("banger exec to its end", execs.command_ms),
    ];
    rows.extend(ratios);
    rows
}
