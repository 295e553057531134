//! What running VMs use of the host: counters, from which a client makes rates.

use banger_names::{ByteSize, VmId, VmName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What one VM has used since its VMM started. What cannot be known here is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: VmId,
    /// Its name.
    #[schema(value_type = String)]
    pub name: VmName,
    /// When this was read, in nanoseconds of a clock that never goes back (since the host's boot).
    pub at_ns: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// CPU time of the VMM and its virtual CPUs, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory that the guest may have, in bytes.
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Memory that the VMM has, in bytes, huge pages included.
    #[schema(value_type = Option<u64>)]
    pub memory_used: Option<ByteSize>,
    /// Size of the writable disk in bytes.
    #[schema(value_type = u64)]
    pub disk: ByteSize,
    /// What it takes on the host, in bytes.
    #[schema(value_type = u64)]
    pub disk_used: ByteSize,
    /// Bytes read from the host's disks (what the page cache had does not count).
    pub disk_read: Option<u64>,
    /// Bytes written to them.
    pub disk_written: Option<u64>,
    /// Bytes that the guest received. Known with network `nat`.
    pub net_received: Option<u64>,
    /// Bytes that the guest sent.
    pub net_sent: Option<u64>,
}
