//! `banger cp`

use crate::app::App;
use crate::copy::pack::{Item, Skipped, Tree};
use crate::copy::place::{GuestPath, Place};
use crate::copy::sink::FrameSink;
use crate::copy::transfer::{self, FrameSource};
use crate::copy::unpack::{Outcome, Rules, unpack};
use crate::error::{CliError, Kind};
use banger_api::client::Client;
use banger_guest::request::{CopyIn, CopyOut};
use banger_names::ByteSize;
use clap::ValueHint;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is neither file, directory nor link.
const NOT_COPIED: &str = "it is a device, a pipe or a socket, which are not copied";

/// Copy files between the host and a VM
///
/// One side is VM:PATH. A file goes into the destination if that is a directory, else it takes
/// the destination's name; a directory goes into an existing directory, else it becomes the
/// destination; with /. at its end what is in it is copied. - is a tar stream. Links stay links.
/// A host path with a colon in it is written with a slash, as ./a:b.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to copy: PATH, VM:PATH, or - for a tar stream on standard input
    #[arg(value_name = "SRC", value_hint = ValueHint::AnyPath)]
    source: String,
    /// Where to: PATH, VM:PATH, or - for a tar stream on standard output
    #[arg(value_name = "DST", value_hint = ValueHint::AnyPath)]
    destination: String,
    /// Who owns what is copied into a VM, as USER or USER:GROUP; root when left out
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Refuse to copy more than this out of a VM
    #[arg(long, value_name = "SIZE", default_value = "64G")]
    max_size: ByteSize,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let source: Place = self.source.parse()?;
        let destination: Place = self.destination.parse()?;
        match (source, destination) {
            (Place::Host(from), Place::Guest(to)) => self.copy_in(app, from, to).await,
            (Place::Stream, Place::Guest(to)) => self.stream_in(app, to).await,
            (Place::Guest(from), Place::Host(to)) => self.copy_out(app, from, to).await,
            (Place::Guest(from), Place::Stream) => stream_out(app, from).await,
            (Place::Guest(_), Place::Guest(_)) => Err(CliError::usage(
                "copy from a VM to a VM: one side has to be on the host",
            )
            .hint("banger cp VM1:/path - | banger cp - VM2:/path")),
            _ => Err(CliError::usage("copy: neither side is in a VM")
                .hint("banger cp FILE VM:/path, or banger cp VM:/path FILE")),
        }
    }

    fn request(&self, dir: &str, create: bool) -> CopyIn {
        CopyIn {
            dir: dir.to_owned(),
            create,
            owner: self.user.clone().unwrap_or_default(),
        }
    }

    async fn copy_in(&self, app: &App, from: PathBuf, to: GuestPath) -> Result<(), CliError> {
        let origin = Origin::look(&from)?;
        let client = app.client().await?;
        let mut progress = app.ui.work();
        progress.begin(&format!("copy {}", from.display()));
        let skipped = self.send_origin(&client, &origin, &to).await?;
        progress.finish();
        say_left_out(app, skipped.special.len());
        Ok(())
    }

    async fn send_origin(
        &self,
        client: &Client,
        origin: &Origin,
        to: &GuestPath,
    ) -> Result<Skipped, CliError> {
        if origin.is_contents {
            let request = self.request(&to.path, true);
            return send(client, to, request, origin, Path::new("")).await;
        }
        // Only the guest knows whether the destination is a directory: ask for it as one first.
        let into = self.request(&to.path, false);
        let error = match send(client, to, into, origin, &origin.name).await {
            Ok(skipped) => return Ok(skipped),
            Err(error) => error,
        };
        if matches!(error.kind, Kind::Permission | Kind::Exhausted) {
            return Err(error);
        }
        if origin.is_directory {
            let request = self.request(&to.path, true);
            return send(client, to, request, origin, Path::new("")).await;
        }
        if to.is_directory {
            return Err(hint_missing(error, to, &to.path));
        }
        let request = self.request(to.parent(), false);
        send(client, to, request, origin, Path::new(to.name()))
            .await
            .map_err(|error| hint_missing(error, to, to.parent()))
    }

    async fn stream_in(&self, app: &App, to: GuestPath) -> Result<(), CliError> {
        if io::stdin().is_terminal() {
            return Err(CliError::usage("read a tar stream from a terminal")
                .hint("tar c FILES | banger cp - VM:/dir"));
        }
        let client = app.client().await?;
        let request = self.request(&to.path, true);
        transfer::send(&client, &to.vm, &request, |mut sink: FrameSink| {
            io::copy(&mut io::stdin().lock(), &mut sink)
                .and_then(|_| sink.finish())
                .map_err(|source| CliError::io("copy the tar stream", &source))
        })
        .await
    }

    async fn copy_out(&self, app: &App, from: GuestPath, to: PathBuf) -> Result<(), CliError> {
        let (directory, name) = landing(&from, &to)?;
        let rules = Rules {
            top: from.name().as_bytes().to_vec(),
            name,
            max_bytes: self.max_size.0,
        };
        let client = app.client().await?;
        let mut progress = app.ui.work();
        progress.begin(&format!("copy {}:{}", from.vm, from.path));
        let request = CopyOut {
            path: from.path.clone(),
        };
        let target = to.clone();
        let take = move |source: FrameSource| {
            unpack(source, &directory, &rules)
                .map_err(|source| CliError::io(format!("write the copy to {target:?}"), &source))
        };
        let outcome = transfer::receive(&client, &from.vm, &request, take).await?;
        progress.finish();
        if outcome.written == 0 && outcome.left_out > 0 && !from.is_contents {
            let path = &from.path;
            return Err(CliError::failed(format!("copy {path:?}: {NOT_COPIED}")));
        }
        say(app, &outcome);
        Ok(())
    }
}

/// A directory that is missing in the VM is easily made.
fn hint_missing(error: CliError, to: &GuestPath, directory: &str) -> CliError {
    if error.kind != Kind::NotFound || error.hint.is_some() {
        return error;
    }
    error.hint(format!("banger exec {} mkdir -p {directory}", to.vm))
}

fn say_left_out(app: &App, count: usize) {
    let files = if count == 1 { "file" } else { "files" };
    if count > 0 {
        app.ui.note(&format!(
            "left out {count} special {files} (devices, pipes, sockets)"
        ));
    }
}

fn say(app: &App, outcome: &Outcome) {
    say_left_out(app, usize::try_from(outcome.left_out).unwrap_or(usize::MAX));
    let size = ByteSize(outcome.bytes);
    app.ui
        .detail(&format!("copied {} entries, {size}", outcome.written));
}

async fn stream_out(app: &App, from: GuestPath) -> Result<(), CliError> {
    if io::stdout().is_terminal() {
        return Err(CliError::usage("write a tar stream to a terminal")
            .hint("banger cp VM:/path - | tar x"));
    }
    let client = app.client().await?;
    let request = CopyOut {
        path: from.path.clone(),
    };
    let ui = app.ui.clone();
    transfer::receive(&client, &from.vm, &request, move |mut source| {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = io::Read::read(&mut source, &mut buffer)
                .map_err(|source| CliError::io("read the copy", &source))?;
            if count == 0 {
                return Ok(());
            }
            ui.raw(&buffer[..count])?;
        }
    })
    .await
}

/// Sends what is at `origin`, called `name` in the VM; an empty name leaves only what is in it.
async fn send(
    client: &Client,
    to: &GuestPath,
    request: CopyIn,
    origin: &Origin,
    name: &Path,
) -> Result<Skipped, CliError> {
    let tree = Tree::open(&origin.root)?;
    let items = origin.items(&tree, name)?;
    transfer::send(client, &to.vm, &request, move |sink| {
        let (sink, skipped) = tree.pack(&items, sink)?;
        sink.finish()
            .map_err(|source| CliError::io("send the end of the copy", &source))?;
        Ok(skipped)
    })
    .await
}

/// What is copied from the host.
#[derive(Debug)]
struct Origin {
    /// The directory that paths are resolved in.
    root: PathBuf,
    /// The file in it; empty if the root itself is copied.
    start: PathBuf,
    /// What it is called.
    name: PathBuf,
    is_directory: bool,
    is_contents: bool,
}

impl Origin {
    fn look(path: &Path) -> Result<Self, CliError> {
        let fail = |source: io::Error| CliError::io(format!("copy {path:?}"), &source);
        let bytes = path.as_os_str().as_bytes();
        let is_contents = bytes == b"." || bytes.ends_with(b"/.");
        let wants_directory = is_contents || bytes.ends_with(b"/");
        let meta = if wants_directory {
            std::fs::metadata(path)
        } else {
            std::fs::symlink_metadata(path)
        };
        let meta = meta.map_err(fail)?;
        if wants_directory && !meta.is_dir() {
            return Err(CliError::usage(format!(
                "copy {path:?}: it is not a directory"
            )));
        }
        if meta.is_dir() {
            let real = std::fs::canonicalize(path).map_err(fail)?;
            return Ok(Self {
                name: real.file_name().map(PathBuf::from).unwrap_or_default(),
                root: real,
                start: PathBuf::new(),
                is_directory: true,
                is_contents,
            });
        }
        if !meta.is_file() && !meta.is_symlink() {
            return Err(CliError::failed(format!("copy {path:?}: {NOT_COPIED}")));
        }
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self {
            root: parent.unwrap_or(Path::new(".")).to_owned(),
            start: name.clone(),
            name,
            is_directory: false,
            is_contents: false,
        })
    }

    fn items(&self, tree: &Tree, name: &Path) -> Result<Vec<Item>, CliError> {
        if !self.is_directory {
            return Ok(vec![Item {
                source: self.start.clone(),
                name: name.to_owned(),
            }]);
        }
        let mut items = Vec::new();
        if !name.as_os_str().is_empty() {
            items.push(Item {
                source: PathBuf::new(),
                name: name.to_owned(),
            });
        }
        items.extend(tree.walk(Path::new(""))?.into_iter().map(|source| Item {
            name: name.join(&source),
            source,
        }));
        Ok(items)
    }
}

/// The directory that a copy goes into, opened, and the name that it gets there.
fn landing(from: &GuestPath, to: &Path) -> Result<(OwnedFd, Option<Vec<u8>>), CliError> {
    let name = |path: &Path| path.file_name().map(|name| name.as_bytes().to_vec());
    if to.is_dir() {
        let name = (!from.is_contents).then(|| from.name().as_bytes().to_vec());
        return Ok((open(to)?, name));
    }
    if to.as_os_str().as_bytes().ends_with(b"/") {
        return Err(
            CliError::new(Kind::NotFound, format!("copy to {to:?}: no such directory"))
                .hint(format!("mkdir -p {}", to.display())),
        );
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let name =
        name(to).ok_or_else(|| CliError::usage(format!("copy to {to:?}: it names no file")))?;
    Ok((open(parent.unwrap_or(Path::new(".")))?, Some(name)))
}

fn open(directory: &Path) -> Result<OwnedFd, CliError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).map_err(|errno| {
        CliError::io(
            format!("open directory {directory:?}"),
            &io::Error::from(errno),
        )
    })
}
