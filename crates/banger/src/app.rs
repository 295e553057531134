//! What every command has at hand: the user interface, the directories, the daemon.

use crate::daemon;
use crate::error::CliError;
use crate::ui::Ui;
use banger_api::Dirs;
use banger_api::client::Client;
use std::path::PathBuf;

/// One invocation of the program.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// Where talk and data go.
    pub ui: Ui,
    /// The configuration file that `--config` names, absolute.
    pub config: Option<PathBuf>,
}

impl App {
    /// An invocation with the configuration file that `--config` names, if any.
    pub(crate) fn new(ui: Ui, config: Option<PathBuf>) -> Result<Self, CliError> {
        let config = config
            .map(|path| {
                std::fs::canonicalize(&path).map_err(|source| {
                    CliError::io(format!("open the configuration file {path:?}"), &source)
                })
            })
            .transpose()?;
        Ok(Self { ui, config })
    }

    /// The user's directories.
    pub(crate) fn dirs(&self) -> Result<Dirs, CliError> {
        let mut dirs = Dirs::from_env()?;
        if let Some(config) = &self.config {
            dirs.config.clone_from(config);
        }
        Ok(dirs)
    }

    /// The daemon, started if none runs.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        daemon::connect_or_start(self, &self.dirs()?).await
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
