//! `banger vm top`

mod columns;
mod looks;
mod picture;

use super::stats;
use crate::app::App;
use crate::error::CliError;
use crate::session::terminal::{self, RawMode};
use crate::ui::screen::{self, Screen};
use crate::usage::Meter;
use banger_api::StatsView;
use banger_api::client::Client;
use looks::Looks;
use picture::{Order, Picture};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long lies between two readings.
const STEP: Duration = Duration::from_secs(1);

/// Watch what VMs use, on the whole terminal
///
/// Keys: c, m, d, n and a sort by CPU, memory, disk, network and name, r turns the order around,
/// the arrows (or j and k) scroll, q leaves.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to sort by
    #[arg(long, value_name = "COLUMN", default_value = "cpu")]
    sort: Order,
}

/// What the keys can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Sort(Order),
    Reverse,
    Up,
    Down,
    Leave,
}

impl Args {
    pub(crate) async fn run(self, app: &App) -> Result<(), CliError> {
        if app.ui.json || !terminal::is_interactive() {
            return Err(
                CliError::usage("watch VMs on the whole terminal: there is none here")
                    .hint("banger vm stats, or with --no-stream --json"),
            );
        }
        let client = app.client().await?;
        let caught = |source: std::io::Error| CliError::io("catch signals", &source);
        let mut resized = signal(SignalKind::window_change()).map_err(caught)?;
        let mut ended = ends().map_err(caught)?;
        let mut meter = Meter::default();
        let mut picture = Picture::new(self.sort, Looks::of_terminal(screen::is_styled()));
        picture.take(meter.read(stats::read(&client, &[]).await?));
        let output = |source: std::io::Error| CliError::output(&source);
        let _raw = RawMode::enter()?;
        let screen = Screen::enter().map_err(output)?;
        let mut keys = keys();
        let mut readings = readings(client);
        loop {
            let size = terminal::size();
            let lines = picture.draw(size.cols.into(), size.rows.into());
            screen.show(&lines).map_err(output)?;
            tokio::select! {
                Some(reading) = readings.recv() => match reading {
                    Ok(stats) => picture.take(meter.read(stats)),
                    // The daemon may be on its way back.
                    Err(error) => picture.fail(&error.message),
                },
                _ = resized.recv() => {}
                _ = ended.recv() => return Ok(()),
                key = keys.recv() => match key {
                    Some(Key::Leave) | None => return Ok(()),
                    Some(Key::Sort(order)) => picture.sort(order),
                    Some(Key::Reverse) => picture.reverse(),
                    Some(Key::Up) => picture.scroll(false),
                    Some(Key::Down) => picture.scroll(true),
                },
            }
        }
    }
}

/// What VMs use, read beside all else: a daemon that does not answer keeps no key waiting.
fn readings(client: Client) -> mpsc::Receiver<Result<Vec<StatsView>, CliError>> {
    let (read, readings) = mpsc::channel(1);
    drop(tokio::spawn(async move {
        loop {
            tokio::time::sleep(STEP).await;
            let reading = stats::read(&client, &[]).await;
            if read.send(reading).await.is_err() {
                return;
            }
        }
    }));
    readings
}

/// The signals that end a program, any of them.
fn ends() -> std::io::Result<mpsc::Receiver<()>> {
    let (caught, ended) = mpsc::channel(1);
    for kind in [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ] {
        let (mut signal, caught) = (signal(kind)?, caught.clone());
        drop(tokio::spawn(async move {
            while signal.recv().await.is_some() && caught.send(()).await.is_ok() {}
        }));
    }
    Ok(ended)
}

/// The keys that are pressed, read in a thread that ends with its input or the process.
fn keys() -> mpsc::Receiver<Key> {
    let (pressed, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            let count = match rustix::io::read(std::io::stdin(), &mut buffer[..]) {
                Ok(0) => return,
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            for key in parse(&buffer[..count]) {
                if pressed.blocking_send(key).is_err() {
                    return;
                }
            }
        }
    });
    keys
}

/// The keys in what a terminal sent at once. An escape alone is the key of that name.
fn parse(bytes: &[u8]) -> Vec<Key> {
    match bytes {
        b"\x1b[A" | b"\x1bOA" => return vec![Key::Up],
        b"\x1b[B" | b"\x1bOB" => return vec![Key::Down],
        b"\x1b" => return vec![Key::Leave],
        // Some other key of many bytes.
        [0x1b, ..] => return Vec::new(),
        _ => {}
    }
    let key = |byte: &u8| {
        Some(match byte {
            b'q' | b'Q' | 0x03 | 0x04 => Key::Leave,
            b'c' => Key::Sort(Order::Cpu),
            b'm' => Key::Sort(Order::Memory),
            b'd' => Key::Sort(Order::Disk),
            b'n' => Key::Sort(Order::Network),
            b'a' => Key::Sort(Order::Name),
            b'r' => Key::Reverse,
            b'k' => Key::Up,
            b'j' => Key::Down,
            _ => return None,
        })
    };
    bytes.iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_terminals_send() {
        assert_eq!(parse(b"\x1b[A"), [Key::Up]);
        assert_eq!(parse(b"\x1b"), [Key::Leave]);
        assert_eq!(parse(b"\x1b[15~"), []);
        assert_eq!(
            parse(b"mr\x03"),
            [Key::Sort(Order::Memory), Key::Reverse, Key::Leave]
        );
    }
}
