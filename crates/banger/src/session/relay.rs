//! Joins standard input and output to a connection in a VM.

use super::wires::DATA_AHEAD;
use crate::error::CliError;
use crate::ui::attached;
use banger_api::Problem;
use banger_api::client::FrameStream;
use banger_api::stream::StreamEvent;
use banger_guest::frame::{Frame, FrameError, Kind};
use tokio::sync::mpsc;

/// Relays until the VM's side ends. An end of our input is passed on and ends only that direction.
pub(crate) async fn run(stream: FrameStream) -> Result<(), CliError> {
    let (mut reader, mut writer) = stream.split();
    let (sender, mut input) = mpsc::channel::<Frame>(DATA_AHEAD);
    let mut is_open = false;
    let sending = async move {
        while let Some(frame) = input.recv().await {
            writer.send(&frame).await?;
        }
        // Kept until the other direction ends: closing it would cancel the connection.
        std::future::pending::<Result<(), CliError>>().await
    };
    let receiving = async move {
        loop {
            let Some(frame) = reader.recv().await? else {
                return Ok(());
            };
            match frame.kind {
                Kind::Reply if !is_open => {
                    let StreamEvent::Open = frame.parse()? else {
                        continue;
                    };
                    is_open = true;
                    super::stdin::feed(Kind::Data, sender.clone(), None);
                }
                Kind::Data if frame.payload.is_empty() => return Ok(()),
                Kind::Data => write(frame.payload).await?,
                Kind::Failure => return Err(frame.parse::<Problem>()?.into()),
                Kind::Exit => return Ok(()),
                other => return Err(FrameError::Unexpected(other).into()),
            }
        }
    };
    tokio::select! {
        result = sending => result,
        result = receiving => result,
    }
}

/// Writes to standard output without holding up the other direction.
async fn write(bytes: Vec<u8>) -> Result<(), CliError> {
    let written = tokio::task::spawn_blocking(move || attached::write(false, &bytes)).await;
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(CliError::output(&source)),
        Err(source) => Err(CliError::failed("write the output").because(&source)),
    }
}
