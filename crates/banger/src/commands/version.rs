//! `banger version`

use super::ShowArgs;
use crate::app::App;
use crate::daemon::{Socket, probe};
use crate::error::CliError;
use crate::ui::table::Tabular;
use banger_api::VersionView;
use banger_api::client::Client;
use serde::Serialize;

/// Show the versions of client and daemon
///
/// No daemon is started for it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Serialize)]
struct Versions {
    /// The client's version.
    client: String,
    /// The daemon; `None` while none runs.
    daemon: Option<VersionView>,
}

impl Tabular for Versions {
    const HEADINGS: &'static [&'static str] = &["CLIENT", "DAEMON"];

    fn cells(&self) -> Vec<String> {
        let daemon = self.daemon.as_ref();
        let daemon = daemon.map_or_else(|| "not running".into(), |daemon| daemon.version.clone());
        vec![self.client.clone(), daemon]
    }

    fn id(&self) -> String {
        self.client.clone()
    }

    fn name(&self) -> String {
        self.client.clone()
    }
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = Client::new(app.dirs()?.socket());
        let daemon = match probe(&client).await? {
            Socket::Answers => Some(client.get("/v1/version").await?),
            Socket::Missing | Socket::Stale => None,
        };
        let versions = Versions {
            client: env!("CARGO_PKG_VERSION").to_owned(),
            daemon,
        };
        app.ui.inspect(&versions, self.show.format.as_ref())?;
        if versions.daemon.is_none() && !app.ui.json {
            app.ui.note("no daemon is running");
        }
        Ok(())
    }
}
