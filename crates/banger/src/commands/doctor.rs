//! `banger doctor`

use crate::app::App;
use crate::doctor::examine;
use crate::error::CliError;
use crate::ui::sanitize;
use banger_api::{Check, CheckStatus, HostView};

/// Examine whether this host can run VMs, and say what to do where it cannot
///
/// Exits with 1 if any check failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Exit with 1 also if there are warnings
    #[arg(long)]
    strict: bool,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
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
        Ok(u8::from(host.checks.iter().any(is_bad)))
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
