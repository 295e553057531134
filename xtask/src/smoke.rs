//! `cargo xtask smoke`: the promises of `e2e/tests`, kept on a real KVM host: in the lab, by
//! Firecracker, through the real command line, as an ordinary user. Afterwards the host must
//! be as it was.

use crate::lab::{Flavour, HostDied, Lab, Options, Output};
use crate::{PROVISIONS, build, built, must, provide, top};
use crate::{power, root_helper};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the scenarios may take: they take a few minutes on a quiet machine.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// The same for the story of what is killed, which takes twenty minutes on a quiet machine, and as
/// much longer as there are more points.
const KILLED_LIMIT: Duration = Duration::from_secs(210 * 60);

/// Where things lie in the lab.
pub(crate) const HOME: &str = "/srv/smoke";

/// The promises that need a KVM host or are kept there in another way. Not among them: what
/// concerns the store and the user-mode network, which are the same on any host; and the flood
/// of a console, for the CPU of a guest that is emulated twice faults after some ten thousand
/// port writes in a row.
const SCENARIOS: [&str; 14] = [
    "guest::orphans",
    "guest::files_are_copied",
    "guest::a_vm_has_its_own_identity",
    "guest::commands_run_as",
    "lifecycle::a_vm_keeps",
    "lifecycle::a_guest_that",
    "lifecycle::running_vms_survive",
    "lifecycle::logs_show",
    "run::run_passes",
    "run::run_gives_the_command_a_terminal",
    "run::run_leaves_nothing_when",
    "run::run_says_so",
    "run::four_runs",
    "ssh::",
];

/// The other story that is told there, as root: an installation, from its beginning to its end.
const INSTALLED: &str = "an_installation";

/// The engine's unit tests that want a Firecracker, and where that is.
const ENGINE: [&str; 2] = ["--ignored", "firecracker::"];
const FIRECRACKER: &str = "BANGER_TEST_FIRECRACKER=/usr/local/bin/firecracker";

/// What is told as root: every operation with something killed in its middle. What takes longest has a
/// host of its own, so that two take about as long as each other.
pub(crate) const KILLED_APART: [&str; 2] = ["chaos::vms", "chaos::uninstalling"];
pub(crate) const KILLED_THERE: [&str; 2] = ["chaos::images", "chaos::installations"];

/// What VMs get in the lab: little, for its guests are emulated twice; and pages of 2 MiB, with
/// which a guest boots in half the time and the emulated host lives longer.
pub(crate) const CONFIG: &str =
    "[vm]\nmemory = \"160M\"\nnetwork = \"none\"\n[engine]\nhuge_pages = true\n";

/// What a host shows of itself. What differs between two looks was left by somebody.
const LOOK: &str = "
echo '== processes'; ps -eo user=,args= | grep -v -e '^root  *\\[' -e ' (' -e 'sshd' -e 'ps -eo' -e 'sh -c' -e 'grep -v' | sort
echo '== links'; ip -o link | cut -d: -f2 | sort
echo '== sockets'; ss -xlHn | awk '$5 != \"*\" {print $5}' | sort
echo '== mounts'; cut -d' ' -f2,3 /proc/mounts | sort
echo '== device mapper'; dmsetup ls; echo '== loops'; losetup -a
echo '== cgroups'; find /sys/fs/cgroup -type d | grep -v -e 'user.slice/user-.*scope' -e 'run-' | sort
echo '== rules'; nft -s list ruleset
echo '== resolver'; resolvectl status --no-pager
echo '== forwarding'; grep . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/forwarding | sort
echo '== units'; systemctl list-units --all --plain --no-legend 'banger*'; ls /etc/systemd/system
echo '== groups'; cut -d: -f1 /etc/group
echo '== installed'; find /etc/banger /usr/lib/banger /usr/local/bin /var/lib/banger /var/lib/bangerd-root /var/cache/banger /run/banger* /etc/modules-load.d /etc/udev/rules.d 2>/dev/null | sort
echo '== files'; find /tmp /var/tmp /dev/shm /home /run/user -mindepth 1 2>/dev/null | grep -v systemd-private | sort
";

/// Runs the scenarios, or those that contain one of `filter`.
pub(crate) fn run(filter: &[&str]) -> Result<()> {
    let start = Instant::now();
    let tests = Tests::build()?;
    let prepared = start.elapsed();
    let killed = told_of(&KILLED_APART, filter);
    let promises = || match filter {
        [one] if killed.contains(one) => Ok(()),
        _ => tests.in_a_lab("promises", |lab| tests.tell(lab, filter)),
    };
    let killed = || match killed.as_slice() {
        [] => Ok(()),
        stories => tests.in_a_lab("killed", |lab| {
            Ok(vec![tests.tell_killed(lab, stories)?.code])
        }),
    };
    side_by_side(promises, killed)?;
    println!(
        "smoke: prepared {:.0} s, in all {:.0} s",
        prepared.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Does both at once, for a lab keeps one CPU busy; fails if one does.
pub(crate) fn side_by_side(
    one: impl FnOnce() -> Result<()>,
    other: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join();
        (one, other.unwrap_or_else(|_| Err(anyhow!("it broke off"))))
    });
    if let (Err(_), Err(error)) = (&one, &other) {
        eprintln!("xtask: {error:#}");
    }
    one.and(other)
}

fn told_of(stories: &[&'static str], filter: &[&str]) -> Vec<&'static str> {
    let mut told = stories.to_vec();
    told.retain(|story| is_told(story, filter));
    told
}

fn is_told(story: &str, filter: &[&str]) -> bool {
    filter.is_empty() || filter.iter().any(|part| story.contains(part))
}

/// The test programs, and what they need.
pub(crate) struct Tests {
    dist: PathBuf,
    store: PathBuf,
    promises: PathBuf,
    installed: PathBuf,
    engine: PathBuf,
    pub(crate) helper: root_helper::Tests,
    power: power::Test,
    /// How often they kill, if it is said, as a word for `env`.
    pub(crate) points: Option<String>,
}

impl Tests {
    pub(crate) fn build() -> Result<Self> {
        let dist = build::dist()?;
        let store = store(&dist)?;
        let [promises, installed] = built("e2e", ["promises", "installed"])?;
        let [engine] = built("banger-engine", ["banger_engine"])?;
        let helper = root_helper::Tests::build(&dist, &store)?;
        Ok(Self {
            dist,
            store,
            promises,
            installed,
            engine,
            helper,
            power: power::Test::build()?,
            points: chaos_points(),
        })
    }

    /// Does `work`, which gives exit codes, in a new lab with everything in it; afterwards that must
    /// be as it was. A lab that dies under it is replaced once, and that is said.
    pub(crate) fn in_a_lab(
        &self,
        name: &str,
        mut work: impl FnMut(&Lab) -> Result<Vec<i32>>,
    ) -> Result<()> {
        match self.once(name, &mut work) {
            Err(error) if error.is::<HostDied>() => {
                eprintln!(
                    "smoke: {error:#}\nsmoke: the lab broke, not a test; once more on a new one"
                );
                self.once(name, &mut work)
            }
            outcome => outcome,
        }
    }

    fn once(&self, name: &str, work: &mut impl FnMut(&Lab) -> Result<Vec<i32>>) -> Result<()> {
        // The first lab on a machine makes what every other one starts from.
        static ONE_BY_ONE: Mutex<()> = Mutex::new(());
        let turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let lab = Lab::up(&Options {
            name: format!("{name}-{}", std::process::id()),
            flavour: Flavour::Steady,
            ..Options::default()
        })?;
        drop(turn);
        let up = start.elapsed();
        let tests = [&self.promises, &self.installed, &self.engine];
        let pushed = [&[&self.dist, &self.store], &tests[..]].concat();
        lab.push(&pushed.into_iter().cloned().collect::<Vec<_>>(), HOME)?;
        lab.push(&self.helper.files().map(Path::to_owned), HOME)?;
        lab.push(std::slice::from_ref(&self.power.program), HOME)?;
        must_in(&lab, &["chown", "-R", "dev:dev", HOME])?;
        let pushing = start.elapsed() - up;
        let before = look(&lab)?;
        let codes = work(&lab)?;
        let after = look(&lab)?;
        lab.down()?;
        println!(
            "smoke: {name}: lab up {:.1} s, pushed {:.1} s, told {:.1} s",
            up.as_secs_f64(),
            pushing.as_secs_f64(),
            (start.elapsed() - up - pushing).as_secs_f64()
        );
        let mut faults = Vec::new();
        if codes.iter().any(|code| *code != 0) {
            faults.push(format!("scenarios failed (exit codes {codes:?})"));
        }
        let left = difference(&before, &after);
        if left.is_empty() {
            println!("smoke: {name}: the host is as it was");
        } else {
            faults.push(format!("the host is not as it was:\n{}", left.join("\n")));
        }
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(())
    }

    /// The promises and the story of an installation, then the helper's own tests.
    fn tell(&self, lab: &Lab, filter: &[&str]) -> Result<Vec<i32>> {
        let start = Instant::now();
        let scenarios: Vec<&str> = if filter.is_empty() {
            SCENARIOS.to_vec()
        } else {
            filter.to_vec()
        };
        let jobs = std::env::var("JOBS").unwrap_or_else(|_| "4".to_owned());
        let promises = self.run_as(lab, "dev", &self.promises, &jobs, &scenarios, LIMIT)?;
        let mut codes = vec![promises.code];
        if is_told(ENGINE[1], filter) {
            let told = self.run_as(lab, "dev", &self.engine, "2", &ENGINE, LIMIT)?;
            codes.push(told.code);
        }
        if is_told(INSTALLED, filter) {
            let told = self.run_as(lab, "root", &self.installed, "1", &[INSTALLED], LIMIT)?;
            codes.push(told.code);
        }
        let killed = told_of(&KILLED_THERE, filter);
        if !killed.is_empty() {
            codes.push(self.tell_killed(lab, &killed)?.code);
        }
        let ran = start.elapsed();
        codes.extend(self.helper.tell(lab, filter)?);
        let helped = start.elapsed() - ran;
        if filter.is_empty() {
            let code = self.power.tell_briefly(lab, &self.dist, &self.store)?;
            codes.push(code);
        }
        println!(
            "smoke: scenarios {:.1} s, helper's tests {:.1} s, power cuts {:.1} s",
            ran.as_secs_f64(),
            helped.as_secs_f64(),
            (start.elapsed() - ran - helped).as_secs_f64()
        );
        Ok(codes)
    }

    /// Those operations with something killed in their middle; the tables are in what it says.
    pub(crate) fn tell_killed(&self, lab: &Lab, stories: &[&str]) -> Result<Said> {
        self.run_as(lab, "root", &self.installed, "1", stories, KILLED_LIMIT)
    }

    /// Runs a test program in the lab as `user`.
    fn run_as(
        &self,
        lab: &Lab,
        user: &str,
        test: &Path,
        jobs: &str,
        scenarios: &[&str],
        limit: Duration,
    ) -> Result<Said> {
        let test = in_lab(test)?;
        let (reuid, regid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let home = if user == "root" { "/root" } else { "/home/dev" };
        let threads = format!("--test-threads={jobs}");
        let dist = format!("BANGER_E2E_DIST={HOME}/dist");
        let store = format!("BANGER_E2E_STORE={HOME}/e2e-store");
        let config = format!("BANGER_E2E_CONFIG={CONFIG}");
        let mut argv = vec!["setpriv", &reuid, &regid, "--init-groups", "--"];
        argv.extend(["env", "-C", home, &dist, &store, &config, FIRECRACKER]);
        argv.extend(self.points.as_deref());
        argv.extend(["RUST_BACKTRACE=0", &test, &threads, "--show-output"]);
        argv.extend(scenarios);
        run_in(lab, &argv, limit)
    }
}

/// How often tests in the lab kill, as a word for `env`, if the user says so.
pub(crate) fn chaos_points() -> Option<String> {
    let points = std::env::var("BANGER_CHAOS_POINTS").ok()?;
    (!points.is_empty()).then(|| format!("BANGER_CHAOS_POINTS={points}"))
}

/// What a program in the lab said, which was printed too, and its exit code.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) text: String,
}

/// Where a pushed file is in the lab.
pub(crate) fn in_lab(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(format!("{HOME}/{}", name.context("no name")?))
}

/// Runs a command in the lab.
pub(crate) fn run_in(lab: &Lab, argv: &[&str], limit: Duration) -> Result<Said> {
    let Output {
        code,
        stdout,
        stderr,
    } = lab.run(argv, limit)?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    print!("{text}");
    eprint!("{}", String::from_utf8_lossy(&stderr));
    Ok(Said { code, text })
}

fn must_in(lab: &Lab, argv: &[&str]) -> Result<Vec<u8>> {
    let output = lab.run(argv, Duration::from_secs(120))?;
    if output.code != 0 {
        bail!(
            "{argv:?} in the lab: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

fn look(lab: &Lab) -> Result<String> {
    let said = must_in(lab, &["sh", "-c", LOOK])?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Lines of one look that the other lacks.
fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |mark: &str, one: &str, other: &str| -> Vec<String> {
        let mut rest: Vec<&str> = other.lines().collect();
        let mut found = Vec::new();
        for line in one.lines() {
            match rest.iter().position(|known| *known == line) {
                Some(at) => drop(rest.swap_remove(at)),
                None => found.push(format!("{mark} {line}")),
            }
        }
        found
    };
    let mut lines = only("+", after, before);
    lines.extend(only("-", before, after));
    lines
}

/// The store that all end-to-end tests share, provisioned.
pub(crate) fn store(dist: &Path) -> Result<PathBuf> {
    let from = top().join("target/e2e-store");
    let home = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in("/tmp")?;
    for name in ["data", "cache"] {
        fs::create_dir_all(from.join(name))?;
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o700))?;
        std::os::unix::fs::symlink(from.join(name), home.path().join(name))?;
    }
    let banger = |args: &[&str]| {
        let mut command = Command::new(dist.join("banger"));
        command.args(args).env("BANGER_HOME", home.path());
        command
    };
    for (_, look, make) in PROVISIONS {
        provide(&banger, look, make)?;
    }
    let lock = fs::read_to_string(home.path().join("run/bangerd.lock"))?;
    must(Command::new("kill").arg(lock.trim()))?;
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_is_left_and_what_is_gone_are_seen() {
        assert!(difference("a\nb\nb", "b\na\nb").is_empty());
        assert_eq!(difference("a\nb", "a\nc\na"), ["+ c", "+ a", "- b"]);
    }
}
