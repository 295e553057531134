//! Progress of long work, on standard error.
//!
//! On a terminal one live line with what is being done, how far and for how long; as plain
//! text a line when a step begins and one with its time when it ends.

use super::{Ui, sanitize, talk};
use banger_names::format_duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What `--progress` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Live on a terminal, else nothing (a run still says when it builds or downloads).
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

/// How a piece of work shows its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Live,
    Lines,
    /// Lines, but only for steps that provision: a boot is not worth a line in a log.
    ProvisioningLines,
    Silent,
}

/// The progress of one piece of work. What is live disappears when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    keep: bool,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    step: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Ui {
    /// Progress of work that is the command's whole purpose: finished steps stay on the terminal.
    pub(crate) fn work(&self) -> Progress {
        self.progress(Style::Silent, true)
    }

    /// Progress on the way to a command in a VM: nothing of it stays on the terminal.
    pub(crate) fn prelude(&self) -> Progress {
        self.progress(Style::ProvisioningLines, false)
    }

    fn progress(&self, without_terminal: Style, keep: bool) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let style = match self.progress {
            _ if self.quiet => Style::Silent,
            Mode::None => Style::Silent,
            Mode::Plain => Style::Lines,
            Mode::Auto if is_terminal => Style::Live,
            Mode::Auto => without_terminal,
        };
        Progress {
            style,
            keep,
            current: None,
        }
    }
}

impl Progress {
    /// Begins a step without figures.
    pub(crate) fn begin(&mut self, step: &str) {
        self.show(&banger_api::Progress {
            step: step.to_owned(),
            ..Default::default()
        });
    }

    /// Shows what the daemon says; a new text of `step` ends the step before it.
    pub(crate) fn show(&mut self, progress: &banger_api::Progress) {
        if self.style == Style::Silent {
            return;
        }
        let is_new = self
            .current
            .as_ref()
            .is_none_or(|current| current.step != progress.step);
        if is_new {
            self.end(true);
            self.current = Some(self.start(&progress.step));
        }
        let bar = self
            .current
            .as_ref()
            .and_then(|current| current.bar.as_ref());
        if let Some(bar) = bar {
            update(bar, progress);
        }
    }

    /// Ends the work well.
    pub(crate) fn finish(mut self) {
        self.end(true);
    }

    /// Ends the current step; another may follow.
    pub(crate) fn clear(&mut self) {
        self.end(true);
    }

    fn start(&self, step: &str) -> Current {
        let bar = (self.style == Style::Live).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {msg} ({elapsed})"));
            bar.set_message(sanitize::line(step));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if self.has_line(step) {
            talk(&format!("{} ...\n", sanitize::line(step)));
        }
        Current {
            step: step.to_owned(),
            since: Instant::now(),
            bar,
        }
    }

    fn end(&mut self, well: bool) {
        let Some(current) = self.current.take() else {
            return;
        };
        if let Some(bar) = &current.bar {
            bar.finish_and_clear();
        }
        let leaves_line = match self.style {
            Style::Live => self.keep,
            _ => self.has_line(&current.step),
        };
        if well && leaves_line {
            let step = sanitize::line(&current.step);
            talk(&format!(
                "{step}: done in {}\n",
                format_duration(current.since.elapsed())
            ));
        }
    }

    fn has_line(&self, step: &str) -> bool {
        match self.style {
            Style::Lines => true,
            Style::ProvisioningLines => is_provisioning(step),
            Style::Live | Style::Silent => false,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Whether a step brings something that later runs find ready, as opposed to booting.
fn is_provisioning(step: &str) -> bool {
    let first = step.split(' ').next().unwrap_or_default();
    !matches!(
        first,
        "boot" | "start" | "create" | "prepare" | "wait" | "connect" | "copy" | "make" | "stop"
    )
}

fn update(bar: &ProgressBar, progress: &banger_api::Progress) {
    let mut message = sanitize::line(&progress.step);
    if !progress.detail.is_empty() {
        message.push_str(": ");
        message.push_str(&sanitize::line(&progress.detail));
    }
    bar.set_message(message);
    let Some(total) = progress.total.filter(|&total| total > 0) else {
        return;
    };
    if bar.length() != Some(total) {
        // Bytes come in thousands, files and packages do not.
        let figures = if total >= 64 * 1024 {
            "{binary_bytes}/{binary_total_bytes}"
        } else {
            "{pos}/{len}"
        };
        bar.set_style(style(&format!(
            "{{spinner}} {{msg}} [{{bar:24}}] {figures} ({{elapsed}})"
        )));
        bar.set_length(total);
    }
    bar.set_position(progress.done.unwrap_or(0).min(total));
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are written here")
        .progress_chars("=> ")
        .tick_chars("|/-\\ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_parse() {
        for figures in ["{binary_bytes}/{binary_total_bytes}", "{pos}/{len}"] {
            style(&format!("{{msg}} [{{bar:24}}] {figures} ({{elapsed}})"));
        }
        style("{spinner} {msg} ({elapsed})");
    }

    #[test]
    fn a_boot_is_no_provisioning() {
        assert!(!is_provisioning("boot the VM"));
        assert!(is_provisioning("download kernel"));
        assert!(is_provisioning("build image"));
    }
}
