//! The configuration's shape, the same in `config.toml` and on the wire.

use crate::{InitMode, NetworkMode, StorageMode};
use banger_names::{BridgeName, ByteSize, Subnet};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The configuration. What the file leaves out has the default written here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What a VM gets unless it asks for something else.
    pub vm: VmDefaults,
    /// Where Debian's packages come from.
    pub debian: DebianConfig,
    /// What runs VMs.
    pub engine: EngineConfig,
    /// The VMs' network.
    pub network: NetworkConfig,
    /// The daemon.
    pub daemon: DaemonConfig,
}

/// What a VM gets unless it asks for something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VmDefaults {
    /// The image's tag or digest.
    pub image: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory: bytes on the wire, a size like `"1G"` in the file.
    #[serde(deserialize_with = "size_or_text")]
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Size of the writable disk, written like `memory`; it takes only what is used.
    #[serde(deserialize_with = "size_or_text")]
    #[schema(value_type = u64)]
    pub disk: ByteSize,
    /// How a disk is kept apart from its image: `overlay`, or with the root helper `snapshot`.
    pub storage: StorageMode,
    /// The network; `nat` where the root helper can give it when left out, else `user`.
    pub network: Option<NetworkMode>,
    /// Who is PID 1.
    pub init: InitMode,
}

impl Default for VmDefaults {
    fn default() -> Self {
        Self {
            image: "debian".into(),
            cpus: 1,
            memory: ByteSize::gib(1),
            disk: ByteSize::gib(16),
            storage: StorageMode::Overlay,
            network: None,
            init: InitMode::Agent,
        }
    }
}

/// Where Debian's packages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DebianConfig {
    /// The release.
    pub suite: String,
    /// The mirror; the one in the host's own apt sources when left out.
    pub mirror: Option<String>,
}

impl Default for DebianConfig {
    fn default() -> Self {
        Self {
            suite: "bookworm".into(),
            mirror: None,
        }
    }
}

/// What runs VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// `firecracker` or `qemu` for every VM; for each the best that can run it when left out.
    pub prefer: Option<EngineName>,
    /// `kvm` or `tcg` (emulation); chosen by what works when left out.
    pub accel: Option<Accel>,
    /// Whether VMs under Firecracker take their memory from the 2 MiB pages that the host has
    /// reserved (`vm.nr_hugepages`), as long as enough are free.
    pub huge_pages: bool,
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineName {
    /// Firecracker: needs KVM, and has no network without root.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The kernel's virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

/// The network of VMs with `nat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// The host's own address on the bridge and the prefix length of the VMs' subnet, which
    /// must be private and nobody else's.
    #[schema(value_type = String)]
    pub subnet: Subnet,
    /// The bridge: `br-fc`, or `br-fc-` and a suffix.
    #[schema(value_type = String)]
    pub bridge: BridgeName,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            subnet: Subnet::parse("172.30.0.1/24").expect("it is a private subnet"),
            bridge: BridgeName::parse("br-fc").expect("it is a bridge's name"),
        }
    }
}

/// Who does for the daemon what needs root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DaemonMode {
    /// The installed helper, if this daemon may talk to it; else nobody.
    #[default]
    Auto,
    /// Nobody.
    Rootless,
    /// A helper of the daemon's own, started as root: directly, or by `sudo -n`.
    Local,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DaemonConfig {
    /// Who does what needs root; read when the daemon starts.
    pub mode: DaemonMode,
    /// A daemon that the command line started ends after so many seconds without a client or
    /// a running VM; 0: never.
    pub idle_exit_seconds: u32,
    /// The largest size of a log (console, VMM) in bytes, each VM.
    #[serde(deserialize_with = "size_or_text")]
    #[schema(value_type = u64)]
    pub log_cap: ByteSize,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            mode: DaemonMode::Auto,
            idle_exit_seconds: 900,
            log_cap: ByteSize::mib(4),
        }
    }
}

/// Reads a size given as a number of bytes or as text with a suffix.
fn size_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bytes(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Bytes(bytes) => Ok(ByteSize(bytes)),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
