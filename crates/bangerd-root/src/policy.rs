//! Every limit of the helper.

use std::time::Duration;

/// The first uid, which is also the gid, of VMs.
pub(crate) const FIRST_UID: u32 = 1_900_000_000;
/// How many uids there are, from [`FIRST_UID`] on.
pub(crate) const UIDS: u32 = 4096;
/// The most VMs at a time.
pub(crate) const MAX_VMS: usize = 200;

/// The most connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// The most of them that one user may have; with more, the one that was idle longest is closed.
pub(crate) const MAX_CONNECTIONS_OF_USER: usize = 48;
/// How long a frame may take from its first byte to its last.
pub(crate) const FRAME_LIMIT: Duration = Duration::from_secs(5);
/// How long a request waits for another of the same VM to end.
pub(crate) const VM_LOCK_LIMIT: Duration = Duration::from_secs(30);
/// How long requests may take to end when the helper is told to end.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(15);

/// The most bytes of a line of the log.
pub(crate) const MAX_LOG_LINE: usize = 200;
/// The most lines of the log in [`LOG_PERIOD`]; the rest are counted.
pub(crate) const MAX_LOG_LINES: u32 = 100;
/// See [`MAX_LOG_LINES`].
pub(crate) const LOG_PERIOD: Duration = Duration::from_secs(10);

/// The most bytes of a file in the ledger.
pub(crate) const MAX_ENTRY: usize = 8 * 1024;
/// The most names in the ledger's directory that are looked at.
pub(crate) const MAX_ENTRIES: usize = 1024;

/// How long `nft` may take.
pub(crate) const NFT_LIMIT: Duration = Duration::from_secs(30);
/// Where `nft` may be.
pub(crate) const NFT_PATHS: [&str; 3] = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"];
/// The most bytes of its complaints that are repeated.
pub(crate) const MAX_NFT_TEXT: usize = 400;
/// How long systemd and systemd-resolved may take to answer.
pub(crate) const BUS_LIMIT: Duration = Duration::from_secs(10);
/// The system bus.
pub(crate) const BUS: &str = "/run/dbus/system_bus_socket";
/// The lowest port where a resolver of the owner's may answer.
pub(crate) const FIRST_RESOLVER_PORT: u16 = 1024;
/// The zone of VMs' names.
pub(crate) const ZONE: &str = "vm";
/// Routes with shorter prefixes are ways out, not networks that a subnet could collide with.
pub(crate) const SHORTEST_NETWORK: u8 = 8;
/// The most lines that `priv.reclaim` answers.
pub(crate) const MAX_RECLAIMED: usize = 100;
/// The most chains of others that `priv.status` tells, and the most characters of their names.
pub(crate) const MAX_CHAINS: usize = 16;
pub(crate) const MAX_CHAIN_NAME: usize = 32;

/// The most CPUs of a guest, which is Firecracker's.
pub(crate) const MAX_CPUS: u8 = 32;
/// The least and most memory of a guest, in MiB.
pub(crate) const MEMORY_MIB: std::ops::RangeInclusive<u32> = 16..=1024 * 1024;
/// What a VMM may have beside the guest's memory: so many bytes,
pub(crate) const MEMORY_OVERHEAD: u64 = 128 << 20;
/// and the guest's memory divided by this.
pub(crate) const MEMORY_OVERHEAD_PART: u64 = 20;
/// Threads of a VMM beside the guest's CPUs.
pub(crate) const TASKS_OVERHEAD: u64 = 16;
/// The least that a VMM may let a file grow to, in bytes.
pub(crate) const MIN_FILE_LIMIT: u64 = 64 << 20;
/// The most bytes of an image or of a copy-on-write file.
pub(crate) const MAX_IMAGE: u64 = 16 << 40;
/// How long the stage may take to become the jailer.
pub(crate) const STAGE_LIMIT: Duration = Duration::from_secs(20);
/// How long Firecracker may take to make its sockets.
pub(crate) const SOCKETS_LIMIT: Duration = Duration::from_secs(20);
/// How long killed processes may take to be gone.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(15);
/// The most entries of a jail that are removed by one request.
pub(crate) const MAX_JAIL_ENTRIES: usize = 10_000;
/// The most names that a search for our marks looks at.
pub(crate) const MAX_SEARCHED: usize = 4096;
