//! Images and kernels on the wire.

use banger_names::{ByteSize, Digest, KernelName, Tag};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use utoipa::ToSchema;

/// An image as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// The digest of its file system.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its tags.
    #[schema(value_type = Vec<String>)]
    pub tags: Vec<Tag>,
    /// Size of the file system in bytes.
    #[schema(value_type = u64)]
    pub size: ByteSize,
    /// What it takes on the host, in bytes.
    #[schema(value_type = u64)]
    pub disk_used: ByteSize,
    /// When it was made, in seconds since 1970.
    pub created_unix: u64,
    /// Where it came from.
    pub source: String,
    /// Names of the VMs that use it.
    pub used_by: Vec<String>,
    /// Its file.
    pub path: String,
}

/// Adds an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddImage {
    /// Builds it from a distribution's packages.
    Build(BuildImage),
    /// Takes it from a file on the host.
    Import(ImportImage),
}

/// Builds an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// The recipe; only `debian` so far.
    pub recipe: String,
    /// The tag it gets; the recipe's name when left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub tag: Option<Tag>,
    /// The release, as `bookworm`; the configuration's when left out.
    #[serde(default)]
    pub suite: Option<String>,
    /// The archive's mirror; the host's own when left out.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Packages over the recipe's own.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// Imports an image from a file on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// The absolute path of a root file system's tar (plain, gz, xz, zst) or an ext4 file.
    pub path: String,
    /// The tag it gets.
    #[schema(value_type = String)]
    pub tag: Tag,
}

/// A kernel as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: KernelName,
    /// The digest of its vmlinux.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its release, as `uname -r` says it; empty if unknown.
    pub version: String,
    /// Size of its vmlinux in bytes.
    #[schema(value_type = u64)]
    pub size: ByteSize,
    /// When it was added, in seconds since 1970.
    pub created_unix: u64,
    /// Whether VMs get it unless they ask for another.
    pub is_default: bool,
    /// Where it came from.
    pub source: String,
    /// Whether it brings modules.
    pub has_modules: bool,
    /// Its ELF file.
    pub path: String,
}

/// Adds a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddKernel {
    /// Gets a distribution's kernel.
    Pull(PullKernel),
    /// Builds a lean one from a distribution's source.
    Build(BuildKernel),
    /// Takes it from files on the host.
    Import(ImportKernel),
}

/// Gets a distribution's kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PullKernel {
    /// The release, as `bookworm`; the configuration's when left out.
    pub suite: Option<String>,
    /// The archive's mirror; the host's own when left out.
    pub mirror: Option<String>,
}

/// Builds a lean kernel, with everything that a guest needs built in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildKernel {
    /// The name it gets; `lean-VERSION` when left out.
    #[schema(value_type = Option<String>)]
    pub name: Option<KernelName>,
    /// The release whose source is taken, as `bookworm`; the configuration's when left out.
    pub suite: Option<String>,
    /// The archive's mirror; the host's own when left out.
    pub mirror: Option<String>,
    /// How many compilers run at once; as many as there are CPUs when left out.
    #[schema(value_type = Option<u16>)]
    pub jobs: Option<NonZeroU16>,
}

/// Imports a kernel from files on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// The absolute path of an ELF vmlinux or a bzImage.
    pub path: String,
    /// The absolute path of its modules (`/lib/modules/VERSION`), if it needs any.
    #[serde(default)]
    pub modules: Option<String>,
    /// The name it gets.
    #[schema(value_type = String)]
    pub name: KernelName,
}

/// Chooses the kernel that VMs get unless they ask for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDefaultKernel {
    /// Its name.
    #[schema(value_type = String)]
    pub name: KernelName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_kernel_needs_nothing_and_refuses_what_it_does_not_know() {
        let read = |text: &str| serde_json::from_str::<AddKernel>(text);
        let least = read(r#"{"build":{}}"#).unwrap();
        assert_eq!(least, AddKernel::Build(BuildKernel::default()));
        let build = BuildKernel {
            name: Some("fast".parse().unwrap()),
            jobs: NonZeroU16::new(2),
            ..BuildKernel::default()
        };
        let text = r#"{"build":{"name":"fast","jobs":2}}"#;
        assert_eq!(read(text).unwrap(), AddKernel::Build(build));
        for bad in [
            r#"{"build":{"jobs":0}}"#,
            r#"{"build":{"name":"../x"}}"#,
            r#"{"build":{"config":"CONFIG_X=y"}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
