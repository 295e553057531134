//! `banger vm logs`

use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
use crate::time::Since;
use crate::ui::sanitize::LogSanitizer;
use clap_complete::ArgValueCandidates;

/// Show a VM's log
///
/// What a guest wrote is shown with its control characters made visible, unless --raw is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on as the log grows
    #[arg(short, long)]
    follow: bool,
    /// Which log
    #[arg(long, value_name = "LOG", default_value = "console")]
    source: Source,
    /// Begin with the last so many lines
    #[arg(short = 'n', long, visible_alias = "lines", value_name = "N")]
    tail: Option<u64>,
    /// Begin with what was written since then: a time, as 2026-11-22T10:30 (UTC unless it ends in
    /// a zone, as +02:00), or how long ago that was, as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Leave the bytes as they are: a guest can then control the terminal
    #[arg(long)]
    raw: bool,
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
}

/// Which log.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Source {
    /// The guest's serial console
    Console,
    /// The VMM's own messages
    Vmm,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let source = match self.source {
            Source::Console => "console",
            Source::Vmm => "vmm",
        };
        let mut path = format!(
            "{}/logs?source={source}&follow={}",
            path(&self.vm),
            self.follow
        );
        if let Some(Since(unix_ms)) = self.since {
            path.push_str(&format!("&since_unix_ms={unix_ms}"));
        }
        if let Some(lines) = self.tail {
            path.push_str(&format!("&tail={lines}"));
        }
        let mut sanitizer = LogSanitizer::default();
        let show = |bytes: &[u8]| {
            if self.raw {
                crate::ui::attached::write(false, bytes)
            } else {
                crate::ui::attached::write(false, sanitizer.feed(bytes).as_bytes())
            }
        };
        client.get_bytes(&path, show).await?;
        app.ui.text(&sanitizer.finish())
    }
}
