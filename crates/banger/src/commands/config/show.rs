//! `banger config show`

use crate::app::App;
use crate::error::CliError;
use crate::ui::sanitize;
use banger_api::Config;
use banger_names::ByteSize;
use toml::{Table, Value};

/// Show the configuration in force, as the daemon read it, with all defaults
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let config: Config = app.client().await?.get("/v1/config").await?;
        if app.ui.json {
            return app.ui.json(&config);
        }
        app.ui.text(&sanitize::lines(&to_toml(&config)?))
    }
}

/// The configuration as it would stand in the file, sizes with their suffixes.
fn to_toml(config: &Config) -> Result<String, CliError> {
    let fail = |source: toml::ser::Error| {
        CliError::failed("write the configuration as TOML").because(&source)
    };
    let mut table = Table::try_from(config).map_err(fail)?;
    for (section, key) in [("vm", "memory"), ("vm", "disk"), ("daemon", "log_cap")] {
        let value = table
            .get_mut(section)
            .and_then(|section| section.get_mut(key));
        if let Some(value) = value
            && let Some(bytes) = value.as_integer().and_then(|n| u64::try_from(n).ok())
        {
            *value = Value::String(exact(ByteSize(bytes)));
        }
    }
    toml::to_string(&table).map_err(fail)
}

/// A size in the largest unit that divides it, as `1G`.
fn exact(ByteSize(bytes): ByteSize) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let unit = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        let mut config = Config::default();
        config.vm.memory = ByteSize(1536 << 20);
        config.daemon.log_cap = ByteSize(1001);
        let text = to_toml(&config).unwrap();
        assert!(text.contains("memory = \"1536M\""), "{text}");
        assert!(text.contains("log_cap = \"1001B\""), "{text}");
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    }
}
