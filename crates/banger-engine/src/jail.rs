//! A jail: where a VMM runs when somebody with more rights than ours starts it.
//!
//! The engine knows what a VMM is given and what it says; the jail knows how to put it where
//! nothing else can be reached. All that goes in goes in as an open file.

use std::fmt;
use std::os::fd::OwnedFd;

use async_trait::async_trait;

/// Why a jail could not do what it was asked.
pub type JailError = Box<dyn std::error::Error + Send + Sync>;

/// A jail for one VMM. Its calls have deadlines of their own and are carried out one at a time.
#[async_trait]
pub trait Jail: Send + Sync + fmt::Debug {
    /// Where the VMM finds a file, as it sees it.
    fn path(&self, role: JailRole) -> String;

    /// Where the VMM finds the disk that the jail has itself, for which no file is given.
    fn root_path(&self) -> String;

    /// Where the VMM makes the socket of the guest's vsock, as it sees it.
    fn vsock_path(&self) -> String;

    /// Starts the VMM; gives its pidfd. What fails leaves nothing.
    async fn launch(
        &self,
        files: Vec<JailFile>,
        cpus: u32,
        mem_mib: u32,
    ) -> Result<OwnedFd, JailError>;

    /// Waits until the VMM has made its sockets, or asks for them anew. `None`: no VMM runs.
    async fn sockets(&self) -> Result<Option<JailSockets>, JailError>;

    /// Ends the VMM and waits until it is gone. Gone already is no error.
    async fn kill(&self) -> Result<(), JailError>;

    /// Removes the jail of a VMM that has ended; gives its exit code (or 128 and the signal's
    /// number), if it is known. Removed already is no error.
    async fn clean_up(&self) -> Result<Option<u8>, JailError>;
}

/// A file for a VMM.
#[derive(Debug)]
pub struct JailFile {
    /// What it is.
    pub role: JailRole,
    /// The file, opened for what the VMM does with it; sockets with `O_PATH`.
    pub file: OwnedFd,
}

/// What a file is to a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailRole {
    /// The kernel; read.
    Kernel,
    /// The initial RAM file system; read.
    Initrd,
    /// The machine's configuration; read.
    Machine,
    /// The disk of this number; read.
    ReadOnlyDisk(u8),
    /// The same; read and written.
    Disk(u8),
    /// A FIFO for standard output and error, to which the guest's console goes.
    Console,
    /// A FIFO for the log.
    Log,
    /// The listening socket that the guest's agent calls when it is ready.
    Ready,
}

/// What leads to a VMM in a jail.
#[derive(Debug)]
pub struct JailSockets {
    /// The file of its API's socket, opened with `O_PATH`.
    pub api: OwnedFd,
    /// The file of the guest's vsock, likewise.
    pub vsock: OwnedFd,
    /// The VMM's pidfd.
    pub process: OwnedFd,
}
