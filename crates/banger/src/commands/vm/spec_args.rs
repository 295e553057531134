//! The flags that say what a VM is to be.

use crate::completion;
use crate::error::CliError;
use banger_api::{InitMode, NetworkMode, RestartPolicy, StorageMode, VmSpec};
use banger_names::{ByteSize, VmName, parse_duration};
use clap::ValueEnum;
use clap_complete::ArgValueCandidates;
use std::time::Duration;

/// What a VM is to be; what is left out comes from the configuration.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "VM")]
pub(crate) struct SpecArgs {
    /// Virtual CPUs
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Memory, as 2G; a bare number is MiB
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Size of the writable disk, as 20G; it takes only what is used
    #[arg(long, value_name = "SIZE")]
    disk: Option<ByteSize>,
    /// How the disk is kept apart from the image
    #[arg(long, value_name = "STORAGE")]
    storage: Option<Storage>,
    /// The image, by tag or digest
    #[arg(long, value_name = "IMAGE", add = ArgValueCandidates::new(completion::images))]
    image: Option<String>,
    /// The kernel, by name or digest
    #[arg(long, value_name = "KERNEL", add = ArgValueCandidates::new(completion::kernels))]
    kernel: Option<String>,
    /// The network
    #[arg(long, value_name = "MODE")]
    network: Option<Network>,
    /// Who is PID 1
    #[arg(long, value_name = "INIT")]
    init: Option<Init>,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// When a VM that is kept is started again after it ended by itself: no, on-failure,
    /// on-failure:N or always. The wait before that grows from 1 s to 60 s
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
    /// Stop it when it has run for so long, as 2h: a kept VM keeps its disk and may be started
    /// again, a run ends with exit code 124. Setting the host's clock changes nothing of that; its sleep
    /// counts, and so does the time without a daemon. Over a reboot of the host the clock is all there is
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

/// What `--storage` takes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Storage {
    /// A disk over the read-only image, joined by the guest
    Overlay,
    /// The image's own file system, writable, by a device of the host's; needs the installation
    Snapshot,
}

/// What `--network` takes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Network {
    /// An address of its own, outward by the host's; only the host reaches the guest
    Nat,
    /// The guest reaches what the host reaches; nothing reaches the guest
    User,
    /// Loopback only
    None,
}

/// What `--init` takes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Init {
    /// banger's agent: first command soonest
    Agent,
    /// The image's own init, with the agent beside it
    Systemd,
}

impl SpecArgs {
    /// The VM as asked for. `image` is what the command takes as an argument of its own.
    pub(crate) fn spec(
        self,
        name: Option<VmName>,
        image: Option<String>,
    ) -> Result<VmSpec, CliError> {
        if let (Some(one), Some(other)) = (&image, &self.image) {
            return Err(CliError::usage(format!(
                "two images were named: {one:?} and {other:?}"
            )));
        }
        Ok(VmSpec {
            name,
            image: image.or(self.image),
            kernel: self.kernel,
            cpus: self.cpus,
            memory: self.memory,
            disk: self.disk,
            storage: self.storage.map(|storage| match storage {
                Storage::Overlay => StorageMode::Overlay,
                Storage::Snapshot => StorageMode::Snapshot,
            }),
            network: self.network.map(|network| match network {
                Network::Nat => NetworkMode::Nat,
                Network::User => NetworkMode::User,
                Network::None => NetworkMode::None,
            }),
            init: self.init.map(|init| match init {
                Init::Agent => InitMode::Agent,
                Init::Systemd => InitMode::Systemd,
            }),
            labels: self.labels.into_iter().collect(),
            restart: self.restart,
            ttl_ms: self.ttl.map(super::in_ms),
        })
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label has the form KEY=VALUE".into()),
    }
}
