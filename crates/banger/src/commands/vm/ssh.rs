//! `banger ssh`

use super::path;
use crate::app::App;
use crate::commands::ssh_proxy::require_running;
use crate::completion;
use crate::error::CliError;
use crate::ssh::{check_user, options};
use banger_api::{SshView, VmView};
use banger_names::VmName;
use clap_complete::ArgValueCandidates;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Connect to a running VM with ssh
///
/// Uses the system's ssh client with the VM's pinned host key; the image needs an sshd. A
/// changed host key is refused. No agent, no X11 and none of your own ssh configuration is used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user in the VM
    #[arg(short, long, value_name = "USER", default_value = "root", value_parser = check_user)]
    user: String,
    /// Ask for a terminal although a command is given
    #[arg(short, long)]
    tty: bool,
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
    /// The command, for the user's shell in the VM; a shell when left out
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<String>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        let client = app.client().await?;
        let vm: VmView = client.get(&path(&self.vm)).await?;
        require_running(&vm)?;
        let ssh: SshView = client.get(&format!("{}/ssh", path(vm.id.as_str()))).await?;
        let error = self.command_line(app.rootless, &vm.name, &ssh)?.exec();
        Err(CliError::io("start ssh", &error).hint("apt install openssh-client"))
    }

    fn command_line(
        &self,
        rootless: bool,
        name: &VmName,
        ssh: &SshView,
    ) -> Result<Command, CliError> {
        let mut command = Command::new("ssh");
        command.args(["-F", "/dev/null"]);
        let known_hosts = Path::new(&ssh.known_hosts);
        let identity = Path::new(&ssh.identity);
        for (keyword, value) in options(rootless, known_hosts, identity, name.as_str())? {
            command.arg("-o").arg(format!("{keyword}={value}"));
        }
        if self.tty {
            command.arg("-t");
        }
        command.args(["-l", &self.user, "--", &ssh.host]);
        command.args(&self.command);
        Ok(command)
    }
}
