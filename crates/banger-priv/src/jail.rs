//! Where things lie in a jail, as the VMM sees them. The daemon writes these into the machine's
//! configuration, the helper puts the files there.

/// The kernel.
pub const KERNEL: &str = "/kernel";
/// The initial RAM file system.
pub const INITRD: &str = "/initrd";
/// The machine's configuration.
pub const MACHINE: &str = "/machine.json";
/// The VMM's log, a FIFO.
pub const LOG: &str = "/log";
/// The device-mapper snapshot, where the VM has one.
pub const ROOTFS: &str = "/rootfs";
/// The API's socket, made by Firecracker.
pub const API_SOCKET: &str = "/run/api.sock";
/// The socket of the guest's vsock, made by Firecracker.
pub const VSOCK_SOCKET: &str = "/run/vsock.sock";
/// The agent's port of the host for readiness, as in the protocol with the guest.
pub const READY_PORT: u32 = 5001;
/// The most disks, beside the snapshot.
pub const MAX_DISKS: u8 = 8;

/// The disk with this number, from 0.
pub fn disk(number: u8) -> String {
    format!("/disk{number}")
}

/// The socket at which the daemon hears of a guest's connection to this port of the host.
pub fn host_port(port: u32) -> String {
    format!("{VSOCK_SOCKET}_{port}")
}
