//! A daemon to be struck, and what is looked at afterwards.

use crate::{After, Before, Operation};
use e2e::refusal::{Fault, Watch};
use e2e::syscall::Call;
use e2e::tracer::{Traced, Tracer};
use e2e::{Outcome, TestEnv, eventually, finish, send};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long an operation may take before it is called hung, in seconds.
const LIMIT: &str = "600";

/// How long what is being let go of may take to be gone.
const SETTLE: Duration = Duration::from_secs(15);

/// What may come and go with the daemon or without a VM: its own files, what the cache keeps.
const IGNORED: [&str; 6] = [
    "state/bangerd.",
    "state/events",
    "run/bangerd.",
    "cache/initramfs-",
    "cache/overlay-",
    "data/lock",
];

/// What came of an operation with a fault.
#[derive(Debug)]
pub(crate) struct Came {
    /// Whether the fault came to pass.
    pub(crate) is_struck: bool,
    /// Whether the operation succeeded.
    pub(crate) is_done: bool,
    /// What it said on standard error.
    pub(crate) said: String,
    pub(crate) panics: Vec<String>,
    /// Failures that were not told, or not in time.
    pub(crate) unclear: Vec<String>,
    pub(crate) lost: Vec<String>,
    pub(crate) left: Vec<String>,
}

impl Came {
    fn new(outcome: &Outcome, is_struck: bool) -> Self {
        Self {
            is_struck,
            is_done: outcome.code == 0,
            said: outcome.stderr.clone(),
            panics: Vec::new(),
            unclear: unclear(outcome),
            lost: Vec::new(),
            left: Vec::new(),
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        let all = [&self.panics, &self.unclear, &self.lost, &self.left];
        all.iter().all(|wrong| wrong.is_empty())
    }
}

pub(crate) struct Bench {
    env: TestEnv,
    files: BTreeSet<String>,
    /// Descriptors of the daemon when it has no VM.
    descriptors: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let env = TestEnv::apart();
        let root = env.join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let made = finish(
            Command::new("tar")
                .arg("-C")
                .arg(&root)
                .arg("-cf")
                .arg(env.join("tiny.tar"))
                .arg("."),
        );
        assert_eq!(made.code, 0, "{made:#?}");
        // What is kept from the first VM on is there from now on.
        env.ok(&["run", "--", "true"]);
        env.assert_nothing_left();
        let mut bench = Self {
            env,
            files: BTreeSet::new(),
            descriptors: 0,
        };
        bench.files = bench.files();
        bench.descriptors = descriptors(bench.daemon()).len();
        bench
    }

    /// Does it, with a fault or without; what was seen of it, and what came of it.
    pub(crate) fn strike(&self, operation: &Operation, fault: Option<&Fault>) -> (Vec<Call>, Came) {
        self.prepare(operation.before);
        let pid = self.daemon();
        let log = self.log().len();
        let watch = Watch::attach(pid, self.env.path(), fault.cloned());
        let outcome = self.limited(operation.argv);
        let seen = watch.end();
        let mut came = Came::new(&outcome, seen.refused > 0);
        if self.env.daemon_pid() != Some(pid) {
            came.panics.push("the daemon died".to_owned());
        }
        let asked = self.limited(&["vm", "list"]);
        if asked.code != 0 {
            came.unclear
                .push(format!("a request afterwards: {asked:?}"));
        }
        self.look_for_lost(operation, &mut came);
        let log = self.log().get(log..).unwrap_or_default().to_owned();
        let panics = log.lines().filter(|line| line.contains("panicked"));
        came.panics.extend(panics.map(str::to_owned));
        self.clear(operation, &mut came);
        (seen.calls, came)
    }

    /// Does it while the daemon is killed at a stop, if one is given; what was seen of it, and what
    /// came of it.
    pub(crate) fn kill(&self, operation: &Operation, at: Option<usize>) -> (Traced, Came) {
        self.prepare(operation.before);
        let daemon = self.daemon();
        let process = i32::try_from(daemon).unwrap();
        let tracer = Tracer::of(move || Some(process), at, Vec::new());
        let outcome = self.limited(operation.argv);
        let traced = tracer.end();
        let annexes = self.annexes();
        if at.is_some() {
            self.restart();
        }
        let mut came = Came::new(&outcome, traced.struck.is_some());
        self.look_for_lost(operation, &mut came);
        self.clear(operation, &mut came);
        for annex in annexes {
            came.left
                .extend(annex.exists().then(|| format!("{annex:?}")));
            came.left.extend(work_in(&annex));
        }
        (traced, came)
    }

    /// The directories elsewhere, of the system's for temporary files, that a build works in.
    fn annexes(&self) -> Vec<PathBuf> {
        let scratch = ["data/tmp", "cache/tmp"].map(|dir| self.env.join(dir));
        let entries = scratch.into_iter().filter_map(|dir| fs::read_dir(dir).ok());
        let links = entries.flatten().flatten();
        links
            .filter_map(|entry| fs::read_link(entry.path().join("annex")).ok())
            .collect()
    }

    /// Brings the VM to where the operation finds it.
    fn prepare(&self, before: Before) {
        let now = self.state();
        let is = |state: &str| now.as_deref() == Some(state);
        match before {
            Before::Nowhere => assert!(now.is_none(), "{now:?}"),
            Before::Created => {
                if now.is_none() {
                    self.env.ok(&["vm", "create", "--name", "struck"]);
                }
            }
            Before::Stopped if is("stopped") || is("crashed") => {}
            Before::Stopped => {
                self.prepare(Before::Running);
                self.env.ok(&["vm", "kill", "struck"]);
            }
            Before::Running => {
                self.prepare(Before::Created);
                self.env.ok(&["vm", "start", "struck"]);
            }
        }
    }

    /// What was acknowledged is there, also for the next daemon; what was asked to go is gone.
    fn look_for_lost(&self, operation: &Operation, came: &mut Came) {
        let had_vm = operation.before != Before::Nowhere;
        let lost = |what: &str| format!("{what}: {:?}", self.state());
        if !came.is_done {
            if had_vm && operation.after != After::None && self.state().is_none() {
                came.lost.push(lost("a VM that was there"));
            }
            return;
        }
        match operation.after {
            After::None if self.state().is_some() => came.lost.push(lost("a removal")),
            After::None => {}
            After::Image => {
                if self.env.run(&["image", "inspect", "struck"]).code != 0 {
                    came.lost.push("the image".to_owned());
                }
            }
            After::Vm(state) => {
                if self.state().as_deref() != Some(state) {
                    came.lost.push(lost(state));
                }
                self.restart();
                if self.state().as_deref() != Some(state) {
                    came.lost.push(lost(&format!("after a kill, {state}")));
                }
            }
        }
    }

    /// Removes what there is, unless the next one can use it; then nothing else may be left.
    fn clear(&self, operation: &Operation, came: &mut Came) {
        if operation.after == After::Image {
            self.env.run(&["image", "rm", "--yes", "struck"]);
            // What could not be removed at the end goes with the next one.
            self.env
                .ok(&["image", "import", "--tag", "next", "tiny.tar"]);
            self.env.ok(&["image", "rm", "--yes", "next"]);
        }
        if self.state().is_some() {
            let removed = self.limited(&["vm", "rm", "--force", "struck"]);
            if removed.code != 0 {
                came.left.push(format!("refuses to go: {removed:?}"));
            }
        }
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                came.left.extend(left);
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // The next point begins clean.
        self.restart();
        let after = self.left();
        came.left.push(format!("after a restart: {after:?}"));
        if self.state().is_some() {
            self.env.ok(&["vm", "rm", "--force", "struck"]);
        }
        for name in self.files().difference(&self.files) {
            if let Some(digest) = name
                .strip_prefix("data/images/")
                .filter(|name| !name.contains('/'))
            {
                self.env
                    .run(&["image", "rm", "--yes", &format!("sha256:{digest}")]);
            }
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.env.leftovers();
        left.extend(self.files().difference(&self.files).cloned());
        let listed = self.env.json(&["vm", "list"]);
        if listed != serde_json::json!([]) {
            left.push(format!("listed: {listed}"));
        }
        let pid = self.daemon();
        let descriptors = descriptors(pid);
        // Those of clients are closed a moment after them: what stays is looked at again.
        if descriptors.len() > self.descriptors {
            left.push(format!(
                "{} descriptors: {descriptors:?}",
                descriptors.len()
            ));
        }
        left.extend(zombies(pid));
        left
    }

    /// All names below the surroundings, but those that may come and go.
    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        let mut stack: Vec<_> = ["run", "state", "data", "cache"]
            .map(|name| self.env.join(name))
            .into();
        while let Some(dir) = stack.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(self.env.path()).unwrap();
                let name = name.to_str().unwrap().to_owned();
                if IGNORED.iter().any(|ignored| name.starts_with(ignored)) {
                    continue;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    stack.push(path);
                }
                files.insert(name);
            }
        }
        files
    }

    /// The VM's state, if there is one.
    fn state(&self) -> Option<String> {
        let all = self.env.json(&["vm", "list"]);
        let vm = all
            .as_array()
            .unwrap()
            .iter()
            .find(|vm| vm["name"] == "struck")?;
        Some(vm["state"].as_str().unwrap().to_owned())
    }

    fn daemon(&self) -> u32 {
        self.env.ok(&["vm", "list"]);
        self.env.daemon_pid().unwrap()
    }

    /// Kills the daemon and has the next one begin.
    fn restart(&self) {
        if let Some(pid) = self.env.daemon_pid() {
            send(pid, Signal::KILL);
            eventually("the daemon is gone", || self.env.daemon_pid() != Some(pid));
        }
        // What is still being closed of a dead one resets connections for a moment.
        eventually("a daemon answers", || {
            self.env.run(&["vm", "list"]).code == 0
        });
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.env.join("state/bangerd.log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs `banger ARGS`; killed when it hangs.
    fn limited(&self, args: &[&str]) -> Outcome {
        let mut command = self
            .env
            .banger_under(&["timeout", "--signal=KILL", LIMIT], args);
        finish(&mut command)
    }
}

/// What is wrong with how a failure was told.
fn unclear(outcome: &Outcome) -> Vec<String> {
    let is_told =
        outcome.code == 0 || (1..=125).contains(&outcome.code) && outcome.stderr.contains("error:");
    if is_told {
        return Vec::new();
    }
    vec![format!("{outcome:?}")]
}

/// What a process has open, a line each.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let paths = entries.flatten().map(|entry| fs::read_link(entry.path()));
    let mut all: Vec<String> = paths
        .flatten()
        .map(|path| path.display().to_string())
        .collect();
    all.sort();
    all
}

/// Processes that have to do with a directory, by their words.
fn work_in(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let words = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    words
        .filter(|words| words.contains(dir.to_str().unwrap()))
        .map(|words| format!("process {}", words.replace('\0', " ")))
        .collect()
}

/// Children that ended and were not waited for.
fn zombies(parent: u32) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let stat = Path::new("/proc").join(child).join("stat");
            let stat = fs::read_to_string(stat).unwrap_or_default();
            if stat.contains(") Z ") {
                found.push(format!("zombie {stat}"));
            }
        }
    }
    found
}
