//! `banger completion`

use crate::app::App;
use crate::error::CliError;
use clap_complete::env::Shells;

/// Print a shell's completion script
///
/// It completes commands, flags and the names of VMs, images and kernels. For bash:
/// `banger completion bash > ~/.local/share/bash-completion/completions/banger`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

impl Args {
    pub(crate) fn run(self, app: &App) -> Result<(), CliError> {
        let shells = Shells::builtins();
        let shell = shells
            .completer(&self.shell)
            .ok_or_else(|| CliError::usage(format!("complete for shell {:?}", self.shell)))?;
        let mut script = Vec::new();
        shell
            .write_registration("COMPLETE", "banger", "banger", "banger", &mut script)
            .map_err(|source| CliError::io("write the completion script", &source))?;
        app.ui.raw(&script)
    }
}
