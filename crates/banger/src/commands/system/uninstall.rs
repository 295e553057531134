//! `banger system uninstall`

use super::{host, must_be_root};
use crate::app::App;
use crate::error::{CliError, Kind};
use crate::system::remove::Removal;
use crate::system::traces;
use std::path::PathBuf;

/// Stop and remove the services and all that they made
///
/// Your VMs' disks, kernels and images stay in /var/lib/banger and /var/cache/banger, unless
/// --purge removes them too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// End VMs that run
    #[arg(short, long)]
    force: bool,
    /// Remove VMs, kernels and images too
    #[arg(long)]
    purge: bool,
}

impl Args {
    pub(crate) fn run(self, app: &App) -> Result<(), CliError> {
        must_be_root("uninstall")?;
        let host = host();
        let removal = Removal::look(&host, self.purge);
        let running = traces::scopes(&host);
        if removal.is_empty() && traces::kernel(&host).is_empty() {
            app.ui.note("nothing is installed");
            return self.tell(app, &removal.paths, &removal.kept);
        }
        if self.dry_run {
            return app.ui.text(&preview(&removal, &running));
        }
        if !running.is_empty() && !self.force {
            return Err(CliError::new(
                Kind::Conflict,
                format!("uninstall: {} VMs run", running.len()),
            )
            .hint("banger vm list shows them; --force ends them"));
        }
        if !self.yes {
            let what = if self.purge {
                "remove banger with all VMs, kernels and images"
            } else {
                "remove banger's services"
            };
            app.ui.confirm(what, "sudo banger system uninstall --yes")?;
        }
        let faults = removal.carry_out(&host);
        let mut left = traces::left(&host);
        let foreign: Vec<String> = removal
            .foreign
            .iter()
            .map(|path| format!("file {}", path.display()))
            .collect();
        left.retain(|trace| !foreign.contains(trace));
        for path in &removal.foreign {
            app.ui
                .note(&format!("{} is not banger's: it stays", path.display()));
        }
        if !faults.is_empty() || !left.is_empty() {
            let mut error = CliError::failed("uninstall: not all is gone");
            for fault in faults {
                error.causes.push(fault.message);
                error.causes.extend(fault.causes);
            }
            error
                .causes
                .extend(left.iter().map(|trace| format!("left: {trace}")));
            return Err(error.hint("sudo banger system uninstall again, or remove these by hand"));
        }
        self.tell(app, &removal.paths, &removal.kept)
    }

    fn tell(&self, app: &App, removed: &[PathBuf], kept: &[PathBuf]) -> Result<(), CliError> {
        if app.ui.json {
            return app
                .ui
                .json(&serde_json::json!({"removed": removed, "kept": kept}));
        }
        for path in kept {
            app.ui
                .note(&format!("kept: {} (--purge removes it)", path.display()));
        }
        app.ui.text("banger is not installed\n")
    }
}

fn preview(removal: &Removal, running: &[String]) -> String {
    let mut out = String::new();
    for scope in running {
        out.push_str(&format!("end     {scope}\n"));
    }
    out.push_str(
        "stop    bangerd.service, bangerd-root.service, bangerd-root.socket, banger.slice\n",
    );
    out.push_str("run     bangerd-root teardown: taps, bridge, rules, names, snapshots, jails\n");
    for (word, paths) in [
        ("remove", &removal.paths),
        ("keep  ", &removal.kept),
        ("leave ", &removal.foreign),
    ] {
        for path in paths {
            out.push_str(&format!("{word}  {}\n", path.display()));
        }
    }
    if removal.has_group {
        out.push_str(&format!("remove  the group {}\n", banger_priv::GROUP));
    }
    out
}
