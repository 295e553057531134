//! The boot configuration: what the agent is told before it serves.
//!
//! The host writes it as JSON into a small cpio archive appended to the shared initramfs,
//! at [`BOOT_CONFIG_PATH`]; so it needs no device, no driver and no round trip, and never
//! shows in the kernel's command line.

use serde::{Deserialize, Serialize};

/// Where the agent finds the configuration, in the initramfs.
pub const BOOT_CONFIG_PATH: &str = "/banger/boot.json";

/// Where the initramfs lists the modules to insert, one file name below `/modules` a line, in order.
pub const MODULES_LIST_PATH: &str = "/modules/order";

/// What the agent does at boot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// How hosts reach the agent.
    pub channel: Channel,
    /// The root file system.
    pub root: Root,
    /// Who is PID 1 after the boot.
    pub init: Init,
    /// The host name.
    pub hostname: String,
    /// The network card's address; `None` leaves the guest with loopback only.
    pub network: Option<Network>,
    /// Bytes mixed into the kernel's random pool (and credited) before anything else runs, as hexadecimal.
    pub seed: String,
    /// The host's clock at start, in milliseconds since 1970.
    pub clock_unix_ms: u64,
}

impl std::fmt::Debug for BootConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootConfig")
            .field("channel", &self.channel)
            .field("root", &self.root)
            .field("init", &self.init)
            .field("hostname", &self.hostname)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// How hosts reach the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Channel {
    /// A virtio-serial port of this name, spoken by [`crate::mux`].
    VirtioSerial {
        /// The port's name, as in `/sys/class/virtio-ports/*/name`.
        name: String,
    },
    /// A vsock port, one connection a stream.
    Vsock {
        /// The port to listen on.
        port: u32,
    },
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// A read-only base and a writable disk, joined by overlayfs.
    Overlay {
        /// The base's device, as `/dev/vda`.
        base: String,
        /// The writable ext4 disk's device, as `/dev/vdb`.
        upper: String,
    },
    /// One writable disk.
    Disk {
        /// Its device.
        device: String,
    },
}

/// Who is PID 1 after the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The agent stays.
    #[default]
    Agent,
    /// The agent hands over to the image's own init (`/sbin/init`) and serves beside it.
    Image,
}

/// The first network card's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// IPv4 address and prefix length, as `10.0.2.15/24`.
    pub address: String,
    /// The default gateway.
    pub gateway: String,
    /// Name servers, written to `/etc/resolv.conf`.
    pub dns: Vec<String>,
}
