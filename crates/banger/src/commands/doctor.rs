//! `banger doctor`

use crate::app::App;
use crate::doctor::examine;
use crate::error::CliError;
use crate::ui::sanitize;
use banger_api::{Check, CheckStatus, HostView, TidyView};

/// Examine whether this host can run VMs, and say what to do where it cannot
///
/// Exits with 1 if any check failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Exit with 1 also if there are warnings
    #[arg(long)]
    strict: bool,
    /// First remove what belongs to no VM: directories, taps, snapshots, jails
    #[arg(long)]
    fix: bool,
    /// Do not ask before directories with disks are removed
    #[arg(short, long, requires = "fix")]
    yes: bool,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        let is_left = self.fix && self.tidy(app).await?;
        let host = examine(app).await?;
        if app.ui.json {
            app.ui.json(&host)?;
        } else {
            app.ui.text(&render(&host, app.ui.quiet))?;
        }
        let is_bad = |check: &Check| match check.status {
            CheckStatus::Ok => false,
            CheckStatus::Warning => self.strict,
            CheckStatus::Failed => true,
        };
        Ok(u8::from(is_left || host.checks.iter().any(is_bad)))
    }

    /// Has the daemon remove what belongs to no VM; tells whether something could not be.
    async fn tidy(&self, app: &App) -> Result<bool, CliError> {
        let client = app.client().await?;
        let host: HostView = client.get("/v1/host").await?;
        let unknown = host
            .checks
            .iter()
            .find(|check| check.name == "state.unknown");
        if let Some(check) = unknown
            && !self.yes
        {
            let question = format!("remove {}", check.message);
            app.ui.confirm(&question, "banger doctor --fix --yes")?;
        }
        let tidied: TidyView = client.post("/v1/tidy", &()).await?;
        for line in &tidied.removed {
            app.ui.note(&format!("removed {}", sanitize::line(line)));
        }
        for line in &tidied.left {
            app.ui
                .note(&format!("could not remove {}", sanitize::line(line)));
        }
        Ok(!tidied.left.is_empty())
    }
}

/// The findings, a line each, with their fixes below, and how many are well, warnings and failed;
/// `only_bad` leaves out what is well.
pub(crate) fn findings(checks: &[Check], only_bad: bool) -> (String, [usize; 3]) {
    let mut out = String::new();
    let mut counts = [0; 3];
    for check in checks {
        let (count, word) = match check.status {
            CheckStatus::Ok => (&mut counts[0], "ok  "),
            CheckStatus::Warning => (&mut counts[1], "warn"),
            CheckStatus::Failed => (&mut counts[2], "FAIL"),
        };
        *count += 1;
        if only_bad && check.status == CheckStatus::Ok {
            continue;
        }
        let (name, message) = (sanitize::line(&check.name), sanitize::line(&check.message));
        out.push_str(&format!("{word}  {name:<18}  {message}\n"));
        if let Some(fix) = &check.fix {
            out.push_str(&format!("      fix: {}\n", sanitize::line(fix)));
        }
    }
    (out, counts)
}

/// The findings and what follows from them.
fn render(host: &HostView, only_bad: bool) -> String {
    let (mut out, counts) = findings(&host.checks, only_bad);
    if only_bad {
        return out;
    }
    let engine = host.engine.as_ref().map_or_else(
        || "nothing can run VMs here".to_owned(),
        |engine| format!("{}: {}", engine.name, engine.description),
    );
    let [ok, warnings, failed] = counts;
    let s = if warnings == 1 { "" } else { "s" };
    out.push_str(&format!(
        "\nmode    {}\nengine  {}\n\n{ok} ok, {warnings} warning{s}, {failed} failed\n",
        sanitize::line(&host.mode),
        sanitize::line(&engine)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_show_their_fixes_in_words() {
        let check = |status, fix: Option<&str>| Check {
            name: "engine.qemu".into(),
            status,
            message: "x\u{1b}".into(),
            fix: fix.map(str::to_owned),
        };
        let host = HostView {
            mode: "rootless".into(),
            engine: None,
            checks: vec![
                check(CheckStatus::Ok, None),
                check(CheckStatus::Failed, Some("apt install qemu")),
            ],
        };
        let text = render(&host, false);
        assert!(
            text.contains("ok    engine.qemu         x\\x1b\n"),
            "{text}"
        );
        assert!(text.contains("FAIL  engine.qemu"), "{text}");
        assert!(text.contains("fix: apt install qemu"), "{text}");
        assert!(text.ends_with("1 ok, 0 warnings, 1 failed\n"), "{text}");
        assert!(!render(&host, true).contains("ok  "));
    }
}
