//! The host as installing sees it: files below a root, and a few programs of the distribution.

use crate::error::{CliError, Kind};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the distribution's programs are looked for, and all the `PATH` that they get.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program of the distribution.
pub(crate) trait Programs: fmt::Debug {
    /// Runs it to its end and gives what it says. Anything but success is an error.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, CliError>;
}

/// The host: this one, or in a test another.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    programs: Box<dyn Programs>,
}

/// This host's programs.
#[derive(Debug)]
struct Here;

impl Host {
    /// This host.
    pub(crate) fn here() -> Self {
        Self::new(Path::new("/"), Box::new(Here))
    }

    /// The host whose files are below `root`.
    pub(crate) fn new(root: &Path, programs: Box<dyn Programs>) -> Self {
        Self {
            root: root.to_owned(),
            programs,
        }
    }

    /// Where an absolute path of the host is.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a small file of the host, if it can be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok()
    }

    /// See [`Programs::run`].
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, CliError> {
        self.programs.run(program, arguments)
    }

    /// Whether it runs and succeeds.
    pub(crate) fn succeeds(&self, program: &str, arguments: &[&str]) -> bool {
        self.run(program, arguments).is_ok()
    }
}

impl Programs for Here {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, CliError> {
        let line = std::iter::once(&program)
            .chain(arguments)
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        // A path is taken as it is: joined to a directory, an absolute one replaces it.
        let path = PATH
            .split(':')
            .map(|dir| Path::new(dir).join(program))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                CliError::new(
                    Kind::HostUnsupported,
                    format!("run {line}: there is no {program} in {PATH}"),
                )
            })?;
        let output = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| CliError::io(format!("run {line}"), &source))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut error = CliError::failed(format!("run {line}: it ended with {}", output.status));
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        error.causes = said.lines().take(8).map(str::to_owned).collect();
        Err(error)
    }
}
