//! Names for the shell's completion, asked of the running daemon. None is started, and without a
//! quick answer there are no names.

use banger_api::client::Client;
use banger_api::{Dirs, ImageView, Install, KernelView, VmView};
use clap_complete::engine::CompletionCandidate;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a person at the tab key waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// The names of all VMs.
pub(crate) fn vms() -> Vec<CompletionCandidate> {
    let candidate = |vm: VmView| {
        CompletionCandidate::new(vm.name.as_str()).help(Some(vm.state.as_str().into()))
    };
    ask::<VmView>("/v1/vms")
        .into_iter()
        .map(candidate)
        .collect()
}

/// The tags of all images.
pub(crate) fn images() -> Vec<CompletionCandidate> {
    let images = ask::<ImageView>("/v1/images").into_iter();
    let tags = images.flat_map(|image| image.tags);
    tags.map(|tag| CompletionCandidate::new(tag.as_str()))
        .collect()
}

/// The names of all kernels.
pub(crate) fn kernels() -> Vec<CompletionCandidate> {
    let kernels = ask::<KernelView>("/v1/kernels").into_iter();
    kernels
        .map(|kernel| CompletionCandidate::new(kernel.name.as_str()))
        .collect()
}

fn ask<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let dirs = match Install::of_this_user() {
        Ok(Some(install)) => install.dirs(),
        Ok(None) => match Dirs::from_env() {
            Ok(dirs) => dirs,
            Err(_) => return Vec::new(),
        },
        Err(_) => return Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    runtime.block_on(async {
        let client = Client::new(dirs.socket());
        match tokio::time::timeout(PATIENCE, client.get::<Vec<T>>(path)).await {
            Ok(Ok(things)) => things,
            _ => Vec::new(),
        }
    })
}
