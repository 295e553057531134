//! The two ends of a copy, as `PATH`, `VM:PATH` or `-`.

use crate::error::CliError;
use std::path::PathBuf;
use std::str::FromStr;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A tar stream on standard input or output.
    Stream,
    /// A path on the host.
    Host(PathBuf),
    /// A path in a VM.
    Guest(GuestPath),
}

/// An absolute path in a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestPath {
    /// The VM, by name, id or prefix of the id.
    pub vm: String,
    /// The path, without `.` and empty parts, without a slash at its end; `/` for the root.
    pub path: String,
    /// Whether it was written as a directory, with a slash at its end.
    pub is_directory: bool,
    /// Whether it was written with `/.` at its end: what is in the directory, not the directory.
    pub is_contents: bool,
}

impl FromStr for Place {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        match text.split_once(':') {
            // A path with a colon is written with a slash before it: ./a:b
            Some((vm, path)) if !vm.is_empty() && !vm.contains('/') => {
                GuestPath::parse(vm, path).map(Self::Guest)
            }
            _ if text.is_empty() => Err(CliError::usage("copy a path that is empty")),
            _ => Ok(Self::Host(text.into())),
        }
    }
}

impl GuestPath {
    fn parse(vm: &str, path: &str) -> Result<Self, CliError> {
        if path.is_empty() || path.contains('\0') {
            return Err(
                CliError::usage(format!("copy {path:?} of {vm:?}: name a path in the VM"))
                    .hint(format!("write it as {vm}:/path")),
            );
        }
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    return Err(CliError::usage(format!(
                        "copy {path:?} of {vm:?}: a path in a VM has no \"..\""
                    )));
                }
                part => parts.push(part),
            }
        }
        Ok(Self {
            vm: vm.to_owned(),
            path: format!("/{}", parts.join("/")),
            is_directory: path.ends_with('/') || path.ends_with("/.") || path == ".",
            is_contents: path.ends_with("/.") || path == "." || parts.is_empty(),
        })
    }

    /// Its last part; empty for the root.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The directory it is in.
    pub(crate) fn parent(&self) -> &str {
        match self.path.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((parent, _)) => parent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(text: &str) -> GuestPath {
        match text.parse() {
            Ok(Place::Guest(path)) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn tells_guest_from_host() {
        assert_eq!("-".parse(), Ok(Place::Stream));
        for host in ["a", "./a:b", "/a:b", ":b", "a/b:c"] {
            assert_eq!(host.parse(), Ok(Place::Host(host.into())), "{host}");
        }
        assert_eq!(guest("dev:/etc//./hosts").path, "/etc/hosts");
        assert_eq!(guest("dev:etc/").path, "/etc");
        assert!(guest("dev:etc/").is_directory && !guest("dev:etc/").is_contents);
        assert!(guest("dev:/etc/.").is_contents);
        assert_eq!(
            (guest("dev:/").path.as_str(), guest("dev:/").name()),
            ("/", "")
        );
        assert_eq!(
            (guest("dev:/a").parent(), guest("dev:/a/b").parent()),
            ("/", "/a")
        );
    }

    #[test]
    fn refuses_empty_and_climbing_paths() {
        for bad in ["", "dev:", "dev:/a/../b", "dev:.."] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?}");
        }
    }
}
