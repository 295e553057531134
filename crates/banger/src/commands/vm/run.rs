//! `banger run`

use super::exec_args::ExecArgs;
use super::spec_args::SpecArgs;
use super::{exec, steps};
use crate::app::App;
use crate::completion;
use crate::copy::transfer;
use crate::error::{CliError, Kind};
use crate::session::signals::Signals;
use crate::session::{Options, Session, open};
use crate::workspace::{GUEST_DIR, Workspace};
use banger_api::client::Client;
use banger_api::{CreateVm, RunVm, VmSpec, VmView};
use banger_guest::request::CopyIn;
use banger_names::VmName;
use clap_complete::ArgValueCandidates;
use std::path::{Path, PathBuf};

/// Run a command in a new VM
///
/// The VM is removed when the command ends, unless --name or -d keeps it. The exit code is the
/// command's own. Without a command: the login shell of the image.
///
/// With a directory, its files are copied into the VM at /workspace, where the command begins.
/// Inside a git work tree these are the files that git tracks or would track (not the ignored
/// ones, and not .git itself); elsewhere all of them. Nothing is copied back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, or a directory to bring along: a path has a slash in it, or is . or ..
    #[arg(value_name = "IMAGE|DIR", add = ArgValueCandidates::new(completion::images))]
    target: Option<String>,
    /// The command and its arguments
    #[arg(value_name = "CMD", last = true)]
    command: Vec<String>,
    /// The VM's name; a named VM is kept
    #[arg(long, value_name = "NAME")]
    name: Option<VmName>,
    /// Start the VM, print its name and keep it
    #[arg(short, long, conflicts_with_all = ["rm", "command"])]
    detach: bool,
    /// Remove the VM at the end although it has a name
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    exec: ExecArgs,
}

/// What the first argument means.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Image(Option<String>),
    Directory(PathBuf),
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<u8, CliError> {
        let (image, workspace) = match interpret(self.target.as_deref())? {
            Target::Image(image) => (image, None),
            Target::Directory(directory) => (None, Some(Workspace::collect(&directory)?)),
        };
        if let Some(workspace) = &workspace {
            for note in workspace.notes() {
                app.ui.note(note);
            }
            let count = workspace.count();
            app.ui.detail(&format!("the workspace has {count} files"));
        }
        let is_kept = self.detach || (self.name.is_some() && !self.rm);
        let word = image.clone();
        let has_command = !self.command.is_empty();
        let vm = self.spec.spec(self.name, image)?;
        let exec = self.exec;
        let result = if is_kept {
            run_kept(app, vm, self.command, exec, workspace, self.detach).await
        } else {
            run_ephemeral(app, vm, self.command, exec, workspace).await
        };
        result.map_err(|error| explain(error, word.as_deref(), has_command))
    }
}

/// An image that does not exist may have been meant as a directory, or as a command.
fn explain(mut error: CliError, word: Option<&str>, has_command: bool) -> CliError {
    let is_about = |word: &&str| error.message.contains(&format!("{word:?}"));
    let Some(word) = word
        .filter(is_about)
        .filter(|_| error.kind == Kind::NotFound)
    else {
        return error;
    };
    if Path::new(word).is_dir() {
        error.hint = Some(format!(
            "a bare word is an image; to bring the directory along: banger run ./{word}"
        ));
    } else if !has_command {
        error.hint = Some(format!(
            "banger image ls shows the images; to run it as a command: banger run -- {word}"
        ));
    }
    error
}

fn interpret(target: Option<&str>) -> Result<Target, CliError> {
    let Some(word) = target else {
        return Ok(Target::Image(None));
    };
    let looks_like_path = word == "." || word == ".." || word.contains('/');
    if looks_like_path && Path::new(word).is_dir() {
        return Ok(Target::Directory(word.into()));
    }
    let can_only_be_path = [".", "/", "~"].iter().any(|start| word.starts_with(start));
    if can_only_be_path {
        return Err(CliError::new(
            Kind::NotFound,
            format!("bring directory {word:?} along: there is no such directory"),
        )
        .hint(format!("mkdir -p {word:?}, or leave it out")));
    }
    Ok(Target::Image(Some(word.to_owned())))
}

/// The VM lives as long as the stream.
async fn run_ephemeral(
    app: &App,
    vm: VmSpec,
    command: Vec<String>,
    exec: ExecArgs,
    workspace: Option<Workspace>,
) -> Result<u8, CliError> {
    let workdir = if workspace.is_some() { GUEST_DIR } else { "" };
    let request = RunVm {
        vm,
        exec: exec.exec(command, workdir)?,
        workspace: workspace.is_some().then(|| GUEST_DIR.to_owned()),
    };
    let mut signals = Signals::listen()?;
    let mut progress = app.ui.prelude();
    let opening = async {
        let client = app.client().await?;
        app.provisioned(&client, &mut progress, async |progress| {
            progress.begin("prepare the VM");
            client.upgrade("/v1/run", &request).await
        })
        .await
    };
    let opened = open(&mut signals, opening).await?;
    let options = Options {
        stdin: exec.has_stdin(),
        tty: request.exec.terminal.is_some(),
        removes_vm: true,
        workspace,
    };
    let session = Session::new(&app.ui, opened, signals, progress, options);
    let exit = session.run().await?;
    Ok(exec.exit_code(app, &exit))
}

/// The VM is made and started first, then used like any other.
async fn run_kept(
    app: &App,
    vm: VmSpec,
    command: Vec<String>,
    exec: ExecArgs,
    workspace: Option<Workspace>,
    detach: bool,
) -> Result<u8, CliError> {
    let client = app.client().await?;
    let request = CreateVm {
        vm,
        start: true,
        timeout_ms: None,
    };
    let vm = steps(app, &client, "/v1/vms", &request, app.ui.prelude()).await?;
    let workdir = if workspace.is_some() { GUEST_DIR } else { "" };
    if let Some(workspace) = workspace {
        copy_workspace(app, &client, &vm, workspace).await?;
    }
    if detach {
        app.ui.done(&vm)?;
        return Ok(0);
    }
    app.ui
        .detail(&format!("{} stays: banger vm rm -f {}", vm.name, vm.name));
    let request = exec.exec(command, workdir)?;
    exec::attach(app, &client, vm.id.as_str(), request, &exec).await
}

async fn copy_workspace(
    app: &App,
    client: &Client,
    vm: &VmView,
    workspace: Workspace,
) -> Result<(), CliError> {
    let mut progress = app.ui.prelude();
    progress.begin("copy the workspace");
    let request = CopyIn {
        dir: GUEST_DIR.to_owned(),
        create: true,
        owner: String::new(),
    };
    transfer::send(client, vm.id.as_str(), &request, |sink| {
        workspace.pack(sink)
    })
    .await
    .map_err(|error| {
        let hint = format!("{} stays: banger vm rm -f {}", vm.name, vm.name);
        error.hint(hint)
    })?;
    progress.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_word_is_an_image_and_a_path_is_a_directory() {
        assert_eq!(interpret(None).unwrap(), Target::Image(None));
        for image in ["debian", "team/web:2"] {
            let expected = Target::Image(Some(image.into()));
            assert_eq!(interpret(Some(image)).unwrap(), expected);
        }
        for directory in [".", "..", "./src", "/tmp"] {
            let expected = Target::Directory(directory.into());
            assert_eq!(interpret(Some(directory)).unwrap(), expected);
        }
        for missing in ["./no-such", "/no/such", "../no-such", "~/x"] {
            assert_eq!(interpret(Some(missing)).unwrap_err().kind, Kind::NotFound);
        }
    }
}
