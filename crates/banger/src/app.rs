//! What every command has at hand: the user interface, the directories, the daemons.

use crate::daemon::{self, Role};
use crate::error::{CliError, Kind};
use crate::provision;
use crate::ui::Ui;
use crate::ui::progress::Progress;
use banger_api::client::{Client, ClientError};
use banger_api::{Dirs, Install, ProblemCode};
use std::path::PathBuf;

/// One invocation of the program.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// Where talk and data go.
    pub ui: Ui,
    /// The configuration file that `--config` names, absolute.
    pub config: Option<PathBuf>,
    /// Whether `--rootless` leaves an installation aside.
    pub rootless: bool,
}

impl App {
    /// An invocation with the configuration file that `--config` names, if any.
    pub(crate) fn new(ui: Ui, config: Option<PathBuf>, rootless: bool) -> Result<Self, CliError> {
        let config = config
            .map(|path| {
                std::fs::canonicalize(&path).map_err(|source| {
                    CliError::io(format!("open the configuration file {path:?}"), &source)
                })
            })
            .transpose()?;
        Ok(Self {
            ui,
            config,
            rootless,
        })
    }

    /// The installation that serves this user, unless another daemon is wanted.
    pub(crate) fn install(&self) -> Result<Option<Install>, CliError> {
        if self.rootless {
            return Ok(None);
        }
        Ok(Install::of_this_user()?)
    }

    /// The directories of the daemon that has this user's VMs.
    pub(crate) fn dirs(&self) -> Result<Dirs, CliError> {
        match self.install()? {
            Some(install) => Ok(install.dirs()),
            None => self.own_dirs(),
        }
    }

    /// The directories of a daemon that this user starts.
    fn own_dirs(&self) -> Result<Dirs, CliError> {
        let mut dirs = Dirs::from_env()?;
        if let Some(config) = &self.config {
            dirs.config.clone_from(config);
        }
        Ok(dirs)
    }

    /// The daemon that has this user's VMs: the installation's, or one that is started if it
    /// does not run.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        match self.install()? {
            Some(install) => daemon::connect_installed(self, &install).await,
            None => {
                self.not_by_mistake()?;
                daemon::connect_or_start(self, &self.own_dirs()?, &Role::Own).await
            }
        }
    }

    /// Keeps root, who sees none of the owner's VMs, from starting a daemon of root's own only
    /// because `sudo` was typed.
    fn not_by_mistake(&self) -> Result<(), CliError> {
        let is_meant = self.rootless
            || ["BANGER_HOME", "BANGER_MODE"]
                .iter()
                .any(|name| std::env::var_os(name).is_some());
        if is_meant || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        match Install::read()? {
            None => Ok(()),
            Some(install) => Err(CliError::new(
                Kind::Permission,
                format!(
                    "find VMs of root: the daemon here serves {}",
                    install.owner.name
                ),
            )
            .hint("leave sudo out, or start a daemon of root's own with --rootless")),
        }
    }

    /// The daemon that makes kernels and images, started if it does not run. An installation's
    /// own is confined and cannot.
    pub(crate) async fn builder_client(&self) -> Result<Client, CliError> {
        let Some(install) = self.install()? else {
            return self.client().await;
        };
        let dirs = install.builder_dirs(self.own_dirs()?);
        daemon::connect_or_start(self, &dirs, &Role::Builder(Box::new(install))).await
    }

    /// Does `work` with the daemon that has the VMs. Where that one misses the default kernel or
    /// image and cannot make it, the builder does, and the work is done again.
    pub(crate) async fn provisioned<T>(
        &self,
        client: &Client,
        progress: &mut Progress,
        mut work: impl AsyncFnMut(&mut Progress) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        match work(progress).await {
            Err(ClientError::Problem(problem)) if problem.code == ProblemCode::NeedsBuilder => {
                self.ui.detail(&problem.message);
                provision::defaults(&self.builder_client().await?, progress).await?;
                self.ui.detail(&format!("again at {:?}", client.socket()));
                Ok(work(progress).await?)
            }
            done => Ok(done?),
        }
    }
}

/// `text` as one segment of a path of the API.
pub(crate) fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || b"-_~".contains(&byte)
            || (byte == b'.' && text.len() > 2)
        {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("dev"), "dev");
        assert_eq!(segment("team/web:2.1"), "team%2Fweb%3A2.1");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("a?b#c d\n"), "a%3Fb%23c%20d%0A");
    }
}
