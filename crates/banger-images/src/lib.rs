//! Images and kernels: fetched, verified, unpacked, built and stored by digest.
//!
//! The room turns what mirrors and users hand over (packages, tar archives, kernels) into files that
//! an engine can boot: an ELF `vmlinux`, an ext4 image, an initramfs, an empty disk. It knows no VMs.
//!
//! Invariants:
//! - nothing from an archive is ever extracted onto the host's file system except kernel modules
//!   and, to build a kernel, its source, which the package archive has signed: both under confined,
//!   validated names, in private directories;
//! - nothing is mounted and no loop device is used, so root is not needed;
//! - every result is made in a temporary directory of the store and renamed in whole, or not at all;
//! - all sizes and counts that others choose are capped (see [`Limits`]).
#![forbid(unsafe_code)]

mod apt;
mod child;
mod codec;
mod cpio;
mod deb;
mod debian;
mod disk;
mod elf;
mod error;
mod ext4;
mod files;
mod image;
mod index;
mod initramfs;
mod kernel;
mod kernel_build;
mod kernel_config;
mod kernel_draft;
mod kernel_source;
mod known_digest;
mod limits;
mod modules;
mod progress;
mod raw_ext4;
mod scratch;
mod source;
mod sparse;
mod store;
mod tar_reader;
mod tree;
mod tree_scan;
mod vmlinux;

pub use cpio::CpioWriter;
pub use debian::{BuildOptions, DEFAULT_PACKAGES};
pub use error::ImagesError;
pub use image::Image;
pub use initramfs::boot_initramfs;
pub use kernel::Kernel;
pub use kernel_build::{KernelBuildOptions, missing_kernel_build_packages};
pub use limits::Limits;
pub use modules::Module;
pub use progress::{NoProgress, Progress, ProgressSink};
pub use source::DebianSource;
pub use store::Store;
