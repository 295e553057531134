//! `banger events`

use crate::app::App;
use crate::error::CliError;
use crate::filter::is_like;
use crate::time::{Since, utc};
use crate::ui::sanitize;
use banger_api::{EventKind, EventLine, EventView};
use std::str::FromStr;

/// Show what happened to VMs
///
/// The daemon keeps the last 1000 events. With --json, each is a line of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on as they happen; without --since, begin with the next one
    #[arg(short, long)]
    follow: bool,
    /// Begin with what happened then: a time, as 2026-11-22T10:30 (UTC unless it ends in a zone, as
    /// +02:00), or how long ago that was, as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only events that fit: event=KIND, name=PATTERN (with * and ?) or id=ID; may be given several
    /// times, and all must fit
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<Filter>,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        let client = app.client().await?;
        let mut path = format!("/v1/events?follow={}", self.follow);
        if let Some(Since(unix_ms)) = self.since {
            path.push_str(&format!("&since_unix_ms={unix_ms}"));
        }
        let shown = client.get_lines(&path, |line: EventLine| {
            self.show(app, &line).map_err(|error| error.into_io())
        });
        Ok(shown.await?)
    }

    fn show(&self, app: &App, line: &EventLine) -> Result<(), CliError> {
        let event = match line {
            EventLine::Event(event) if !self.filters.iter().all(|filter| filter.fits(event)) => {
                return Ok(());
            }
            _ if app.ui.json => return app.ui.json_line(line),
            EventLine::Missed { count } => {
                app.ui
                    .note(&format!("{count} events before these are no longer known"));
                return Ok(());
            }
            EventLine::Event(event) => event,
        };
        if app.ui.quiet {
            return app.ui.text(&format!("{}\n", event.id));
        }
        app.ui.text(&in_words(event))
    }
}

fn in_words(event: &EventView) -> String {
    let mut text = format!(
        "{}  {:<9}  {}  {}",
        utc(event.at_unix_ms / 1000),
        event.event.as_str(),
        event.name,
        event.id
    );
    for part in [&event.reason, &event.detail].into_iter().flatten() {
        text.push_str("  ");
        text.push_str(&sanitize::line(part));
    }
    text.push('\n');
    text
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Event(EventKind),
    Name(String),
    Id(String),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "a filter is one of event=KIND, name=PATTERN and id=ID";
        let (key, value) = text.split_once('=').ok_or(FORM)?;
        match key {
            "event" => {
                let found = EventKind::ALL.iter().find(|kind| kind.as_str() == value);
                found.copied().map(Self::Event).ok_or_else(|| {
                    let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
                    format!(
                        "there is no event {value:?}; there are {}",
                        known.join(", ")
                    )
                })
            }
            "name" => Ok(Self::Name(value.to_owned())),
            "id" => Ok(Self::Id(value.to_owned())),
            other => Err(format!("there is no filter {other:?}; {FORM}")),
        }
    }
}

impl Filter {
    fn fits(&self, event: &EventView) -> bool {
        match self {
            Self::Event(kind) => event.event == *kind,
            Self::Name(pattern) => is_like(event.name.as_str(), pattern),
            Self::Id(id) => event.id.as_str().starts_with(id),
        }
    }
}
