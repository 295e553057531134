//! `banger vm logs`

use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
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
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
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
        let path = format!("{}/logs?source={source}", path(&self.vm));
        let mut skip = 0;
        if let Some(lines) = self.lines {
            let mut log = Vec::new();
            let collect = |bytes: &[u8]| {
                log.extend_from_slice(bytes);
                Ok(())
            };
            client
                .get_bytes(&format!("{path}&follow=false"), collect)
                .await?;
            skip = tail_start(&log, lines);
            if !self.follow {
                return self.show(app, &log[skip..]);
            }
        }
        let mut sanitizer = LogSanitizer::default();
        let show = |bytes: &[u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            let bytes = &bytes[skipped..];
            if self.raw {
                crate::ui::attached::write(false, bytes)
            } else {
                crate::ui::attached::write(false, sanitizer.feed(bytes).as_bytes())
            }
        };
        client
            .get_bytes(&format!("{path}&follow={}", self.follow), show)
            .await?;
        app.ui.text(&sanitizer.finish())
    }

    fn show(&self, app: &App, log: &[u8]) -> Result<(), CliError> {
        if self.raw {
            return app.ui.raw(log);
        }
        let mut sanitizer = LogSanitizer::default();
        let text = sanitizer.feed(log) + &sanitizer.finish();
        app.ui.text(&text)
    }
}

/// Where the last `lines` lines of a log begin.
fn tail_start(log: &[u8], lines: usize) -> usize {
    let body = log.strip_suffix(b"\n").unwrap_or(log);
    let mut starts = body.iter().enumerate().rev().filter(|&(_, &b)| b == b'\n');
    match lines.checked_sub(1) {
        None => log.len(),
        Some(before) => starts.nth(before).map_or(0, |(index, _)| index + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::tail_start;

    #[test]
    fn the_tail_is_whole_lines() {
        let log = b"a\nbb\nccc\n";
        for (lines, start) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail_start(log, lines), start, "{lines}");
        }
        assert_eq!(tail_start(b"a\nb", 1), 2);
        assert_eq!(tail_start(b"", 3), 0);
    }
}
