//! `banger vm prune`

use super::{list, path};
use crate::app::App;
use crate::commands::ConsentArgs;
use crate::error::{CliError, Kind};
use crate::filter::Filters;
use banger_api::{VmState, VmView};
use banger_names::ByteSize;
use serde_json::json;

/// Remove VMs that have stopped or crashed, with their disks
///
/// VMs that were never started stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    consent: ConsentArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let mut vms = list::all(app).await?;
        vms.retain(|vm| is_over(vm) && self.filters.fits(vm));
        if vms.is_empty() {
            app.ui
                .note("no VM has stopped or crashed: nothing to remove");
        } else if !self.consent.yes && !self.consent.dry_run {
            let names: Vec<_> = vms.iter().map(|vm| vm.name.to_string()).collect();
            app.ui.confirm(
                &format!(
                    "remove {} with {} on disk: {}",
                    counted(vms.len()),
                    bytes(&vms),
                    names.join(", ")
                ),
                "banger vm prune --yes, or --dry-run to only look",
            )?;
        }
        let (removed, failed) = if self.consent.dry_run {
            (vms, None)
        } else {
            remove(app, vms).await?
        };
        self.show(app, &removed)?;
        match failed {
            None => Ok(()),
            Some(code) => Err(CliError::new(Kind::Reported(code), "not all were removed")),
        }
    }

    fn show(&self, app: &App, removed: &[VmView]) -> Result<(), CliError> {
        let freed = bytes(removed);
        if app.ui.json {
            return app.ui.json(&json!({
                "dry_run": self.consent.dry_run,
                "removed": removed,
                "freed": freed,
            }));
        }
        for vm in removed {
            app.ui.done(vm)?;
        }
        let did = if self.consent.dry_run {
            "would remove"
        } else {
            "removed"
        };
        let count = counted(removed.len());
        if !removed.is_empty() {
            app.ui.note(&format!("{did} {count}, {freed} freed"));
        }
        Ok(())
    }
}

/// Removes the VMs that were shown, by id; one that was started since is left. The exit code of
/// the first failure comes along.
async fn remove(app: &App, vms: Vec<VmView>) -> Result<(Vec<VmView>, Option<u8>), CliError> {
    let client = app.client().await?;
    let mut removed = Vec::new();
    let mut failed = None;
    for vm in vms {
        let path = format!("{}?force=false", path(vm.id.as_str()));
        match client.delete::<VmView>(&path).await.map_err(CliError::from) {
            Ok(_) => removed.push(vm),
            // Somebody else removed it: it is gone, but this did not free it.
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => {
                app.ui.error(&error);
                failed.get_or_insert(error.exit_code(false));
            }
        }
    }
    Ok((removed, failed))
}

fn is_over(vm: &VmView) -> bool {
    matches!(vm.state, VmState::Stopped | VmState::Crashed) && !vm.ephemeral
}

fn bytes(vms: &[VmView]) -> ByteSize {
    ByteSize(vms.iter().map(|vm| vm.disk_used.0).sum())
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 VM".to_owned(),
        count => format!("{count} VMs"),
    }
}
