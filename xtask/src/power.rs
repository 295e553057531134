//! `cargo xtask power`: power cuts. What the daemon writes is recorded in the lab, which has a device
//! for that, and replayed up to many moments: here, if this is root, who may mount, for it is far
//! quicker than in the lab.

use crate::lab::{Flavour, Lab, Options};
use crate::{build, built, smoke};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long either part may take: minutes on a quiet machine.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// At how many moments, beside each acknowledgement, the power is cut.
const LONG: usize = 400;
/// The same for `cargo xtask smoke`.
const SHORT: usize = 60;
/// The same where it has to be done in the lab.
const IN_LAB: usize = 8;

/// Where the lab keeps what was recorded.
const RECORDED: &str = "/srv/power";

const RECORD: &str = "recorded";
const REPLAY: &str = "a_power_cut_at_any_moment_leaves_what_was_acknowledged";

/// Records and replays at length, in a lab of its own.
pub(crate) fn run() -> Result<()> {
    let dist = build::dist()?;
    let store = smoke::store(&dist)?;
    let test = Test::build()?;
    let lab = Lab::up(&Options {
        name: format!("power-{}", std::process::id()),
        flavour: Flavour::Steady,
        ..Options::default()
    })?;
    let pushed = [&dist, &store, &test.program].map(PathBuf::clone);
    lab.push(&pushed, smoke::HOME)?;
    let code = test.tell(&lab, &dist, &store, LONG)?;
    lab.down()?;
    if code != 0 {
        bail!("power: failed (exit code {code})");
    }
    Ok(())
}

/// The test program, which does both parts.
pub(crate) struct Test {
    pub(crate) program: PathBuf,
}

impl Test {
    pub(crate) fn build() -> Result<Self> {
        let [program] = built("e2e", ["power"])?;
        Ok(Self { program })
    }

    /// Does both in few moments, as root, with what was pushed; an exit code.
    pub(crate) fn tell_briefly(&self, lab: &Lab, dist: &Path, store: &Path) -> Result<i32> {
        self.tell(lab, dist, store, SHORT)
    }

    fn tell(&self, lab: &Lab, dist: &Path, store: &Path, moments: usize) -> Result<i32> {
        smoke::run_in(lab, &["mkdir", "-p", RECORDED], LIMIT)?;
        let code = self.in_lab(lab, RECORD, moments)?;
        if code != 0 {
            return Ok(code);
        }
        if !rustix::process::geteuid().is_root() {
            println!("power: replayed in the lab, at few moments: only root may mount here");
            return self.in_lab(lab, REPLAY, IN_LAB);
        }
        let to = tempfile::tempdir()?;
        lab.pull(&[RECORDED], to.path())?;
        let status = Command::new(&self.program)
            .args(["--exact", REPLAY, "--show-output"])
            .env("BANGER_E2E_DIST", dist)
            .env("BANGER_E2E_STORE", store)
            .env(
                "BANGER_POWER",
                to.path().join(RECORDED.trim_start_matches('/')),
            )
            .env("BANGER_POWER_MOMENTS", moments.to_string())
            .status()
            .context("replay what was recorded")?;
        Ok(status.code().unwrap_or(-1))
    }

    fn in_lab(&self, lab: &Lab, part: &str, moments: usize) -> Result<i32> {
        let program = smoke::in_lab(&self.program)?;
        let variables = [
            format!("BANGER_E2E_DIST={}/dist", smoke::HOME),
            format!("BANGER_E2E_STORE={}/e2e-store", smoke::HOME),
            format!("BANGER_E2E_CONFIG={}", smoke::CONFIG),
            format!("BANGER_POWER={RECORDED}"),
            format!("BANGER_POWER_MOMENTS={moments}"),
        ];
        let mut argv = vec!["env", "RUST_BACKTRACE=0"];
        argv.extend(variables.iter().map(String::as_str));
        argv.extend([program.as_str(), "--exact", part, "--show-output"]);
        Ok(smoke::run_in(lab, &argv, LIMIT)?.code)
    }
}
