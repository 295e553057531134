//! `banger exec`

use super::exec_args::ExecArgs;
use super::path;
use crate::app::App;
use crate::completion;
use crate::error::CliError;
use crate::session::signals::Signals;
use crate::session::{Options, Session, open};
use banger_api::client::Client;
use banger_guest::request::Exec;
use clap_complete::ArgValueCandidates;

/// Run a command in a running VM
///
/// The exit code is the command's own. Signals that this program gets are passed on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The VM, by name, id or unique prefix of the id
    #[arg(value_name = "VM", add = ArgValueCandidates::new(completion::vms))]
    vm: String,
    /// The command and its arguments; the login shell when left out
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<String>,
    #[command(flatten)]
    exec: ExecArgs,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        let request = self.exec.exec(self.command, "")?;
        let client = app.client().await?;
        attach(app, &client, &self.vm, request, &self.exec).await
    }
}

/// Runs a command in a VM that is running, attached to it.
pub(super) async fn attach(
    app: &App,
    client: &Client,
    vm: &str,
    request: Exec,
    args: &ExecArgs,
) -> Result<u8, CliError> {
    let mut signals = Signals::listen()?;
    let path = format!("{}/exec", path(vm));
    let opening = async { Ok(client.upgrade(&path, &request).await?) };
    let opened = open(&mut signals, opening).await?;
    let options = Options {
        stdin: args.has_stdin(),
        tty: request.terminal.is_some(),
        removes_vm: false,
        workspace: None,
    };
    let session = Session::new(&app.ui, opened, signals, app.ui.prelude(), options);
    let exit = session.run().await?;
    Ok(args.exit_code(app, &exit))
}
