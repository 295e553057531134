//! Whom an installation is made for.

use super::host::Host;
use crate::error::{CliError, Kind};
use std::path::PathBuf;

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerFacts {
    /// The name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The id, never 0.
    pub uid: u32,
    /// The home directory: absolute, without control characters.
    pub home: PathBuf,
}

/// The user that `--owner` or sudo names.
pub(crate) fn find(host: &Host, asked: Option<String>) -> Result<OwnerFacts, CliError> {
    let name = asked
        .or_else(|| std::env::var("SUDO_USER").ok())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            CliError::usage("install: say whose VMs these will be")
                .hint("run it through sudo as that user, or: banger system install --owner NAME")
        })?;
    // A name that a unit file or a program could take for something else is none.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() > 32 || name.starts_with('-') || !name.chars().all(is_plain) {
        return Err(CliError::usage(format!(
            "install for {name:?}: a user's name has at most 32 letters, digits, . _ -"
        )));
    }
    let entry = host.run("getent", &["passwd", &name]).map_err(|_| {
        CliError::new(
            Kind::NotFound,
            format!("install for {name:?}: there is no such user"),
        )
        .hint("banger system install --owner NAME, with one that `getent passwd` shows")
    })?;
    parse(&name, entry.trim_end())
}

/// Reads a line of the user database.
fn parse(name: &str, entry: &str) -> Result<OwnerFacts, CliError> {
    let fields: Vec<&str> = entry.split(':').collect();
    let &[found, _, uid, _, _, home, _] = fields.as_slice() else {
        return Err(CliError::failed(format!(
            "install for {name:?}: getent says {entry:?}"
        )));
    };
    let uid: u32 = uid
        .parse()
        .map_err(|_| CliError::failed(format!("install for {name:?}: its uid is {uid:?}")))?;
    if uid == 0 {
        return Err(CliError::new(
            Kind::Permission,
            format!("install for {found:?}: the owner's daemon must not run as root"),
        )
        .hint("sudo banger system install, as an ordinary user, or --owner NAME"));
    }
    if name != found {
        return Err(
            CliError::usage(format!("install for {name:?}: that is a number"))
                .hint(format!("banger system install --owner {found}")),
        );
    }
    let is_plain = home.starts_with('/')
        && home != "/"
        && !home.contains("/../")
        && !home.chars().any(|c| c.is_control() || "\"\\:".contains(c));
    if !is_plain {
        return Err(CliError::failed(format!(
            "install for {name:?}: the home directory {home:?} cannot stand in a unit file"
        ))
        .hint("give the user another home directory, without \" \\ : and control characters"));
    }
    Ok(OwnerFacts {
        name: found.to_owned(),
        uid,
        home: home.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_numbers_and_odd_homes_are_refused() {
        let good = parse("dev", "dev:x:1000:1000:Dev,,,:/home/de v%:/bin/sh").unwrap();
        assert_eq!((good.uid, good.home.to_str()), (1000, Some("/home/de v%")));
        for (name, entry, kind) in [
            ("root", "root:x:0:0:root:/root:/bin/sh", Kind::Permission),
            ("toor", "toor:x:0:0::/root:/bin/sh", Kind::Permission),
            ("1000", "dev:x:1000:1000::/home/dev:/bin/sh", Kind::Usage),
            ("dev", "dev:x:1000:1000::/:/bin/sh", Kind::Failed),
            (
                "dev",
                "dev:x:1000:1000::/h\nExecStart=x:/bin/sh",
                Kind::Failed,
            ),
            ("dev", "dev:x:1000:1000::/h\"x:/bin/sh", Kind::Failed),
            ("dev", "dev:x:1000:1000::home:/bin/sh", Kind::Failed),
            ("dev", "dev:x:-1:1000::/home/dev:/bin/sh", Kind::Failed),
            ("dev", "", Kind::Failed),
        ] {
            assert_eq!(parse(name, entry).unwrap_err().kind, kind, "{entry:?}");
        }
    }
}
