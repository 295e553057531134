//! Users and groups, as the image's own `/etc/passwd` and `/etc/group` have them.
//!
//! Parsed by hand: the agent is static, and the image's name services are not its own.

use std::io::Read;
use std::path::Path;

use banger_guest::request::{Failure, FailureCode};
use banger_sys::spawn::Identity;

use crate::stream::failure;

/// The most bytes read of either file.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name, or the number where there is none.
    pub name: String,
    /// User, group and supplementary groups.
    pub identity: Identity,
    /// The home directory.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// Finds the user that `wanted` names: `user`, `user:group`, each a name or a number; empty is root.
pub fn find(wanted: &str) -> Result<User, Failure> {
    let passwd = read(Path::new("/etc/passwd"))?;
    let group = read(Path::new("/etc/group"))?;
    find_in(wanted, &passwd, &group)
}

fn find_in(wanted: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let (user_name, group_name) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entry = find_entry(user_name, passwd);
    let uid = match (&entry, user_name.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => {
            return Err(failure(
                FailureCode::NoSuchUser,
                format!("the image has no user {user_name:?}"),
            ));
        }
    };
    let name = entry.as_ref().map_or(user_name, |entry| entry.name);
    let gid = match group_name {
        Some(wanted) => find_group(wanted, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    // As with every login: a group of its own choice replaces the primary group, not the others.
    let mut groups = vec![gid];
    groups.extend(memberships(name, group).filter(|&other| other != gid));
    let or = |text: Option<&str>, default: &str| {
        text.filter(|text| !text.is_empty())
            .unwrap_or(default)
            .to_owned()
    };
    let default_home = if uid == 0 { "/root" } else { "/" };
    Ok(User {
        name: if entry.is_none() && uid == 0 {
            "root"
        } else {
            name
        }
        .to_owned(),
        identity: Identity { uid, gid, groups },
        home: or(entry.as_ref().map(|entry| entry.home), default_home),
        shell: or(entry.as_ref().map(|entry| entry.shell), "/bin/sh"),
    })
}

/// A missing file is an empty one: an image may hold nothing but a program.
fn read(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
    .map_err(|error| failure(FailureCode::Io, format!("read {path:?}: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// By name first, so that a user whose name is a number is found; then by number.
fn find_entry<'a>(wanted: &str, passwd: &'a str) -> Option<Entry<'a>> {
    let entries = || passwd.lines().filter_map(parse_entry);
    entries().find(|entry| entry.name == wanted).or_else(|| {
        let uid: u32 = wanted.parse().ok()?;
        entries().find(|entry| entry.uid == uid)
    })
}

fn parse_entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or("");
    Some(Entry {
        name,
        uid,
        gid,
        home,
        shell,
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, Failure> {
    parse_groups(group)
        .find(|(name, ..)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| {
            failure(
                FailureCode::NoSuchUser,
                format!("the image has no group {wanted:?}"),
            )
        })
}

fn memberships(user: &str, group: &str) -> impl Iterator<Item = u32> {
    parse_groups(group)
        .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
}

fn parse_groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# comment\nbroken:x:y\n\
        dev:x:1000:1001:Dev,,,:/home/dev:/bin/zsh\nbare:x:7:7::/:\n42:x:1042:1042::/h42:/bin/sh\n";
    const GROUP: &str = "root:x:0:\ndev:x:1001:\nsudo:x:27:other,dev\ndocker:x:99:dev\nno\n";

    fn found(wanted: &str) -> (String, u32, u32, Vec<u32>, String, String) {
        let user = find_in(wanted, PASSWD, GROUP).unwrap();
        let Identity { uid, gid, groups } = user.identity;
        (user.name, uid, gid, groups, user.home, user.shell)
    }

    fn row(
        name: &str,
        uid: u32,
        gid: u32,
        groups: &[u32],
        home: &str,
        shell: &str,
    ) -> (String, u32, u32, Vec<u32>, String, String) {
        (
            name.into(),
            uid,
            gid,
            groups.to_vec(),
            home.into(),
            shell.into(),
        )
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let dev = row("dev", 1000, 1001, &[1001, 27, 99], "/home/dev", "/bin/zsh");
        assert_eq!(found("dev"), dev);
        assert_eq!(found("1000"), dev);
        let root = row("root", 0, 0, &[0], "/root", "/bin/bash");
        assert_eq!(found(""), root);
        assert_eq!(
            found("dev:sudo"),
            row("dev", 1000, 27, &[27, 99], "/home/dev", "/bin/zsh")
        );
        assert_eq!(found("bare"), row("bare", 7, 7, &[7], "/", "/bin/sh"));
        assert_eq!(
            found("555:666"),
            row("555", 555, 666, &[666], "/", "/bin/sh")
        );
        // A name made of digits wins over the number.
        assert_eq!(found("42").1, 1042);
    }

    #[test]
    fn unknown_names_are_refused_and_empty_images_have_root() {
        for wanted in ["nobody", "broken", "dev:nogroup", ":", "-1", "4294967296"] {
            let refused = find_in(wanted, PASSWD, GROUP).unwrap_err();
            assert_eq!(refused.code, FailureCode::NoSuchUser, "{wanted}");
        }
        let root = find_in("", "", "").unwrap();
        assert_eq!((root.name.as_str(), root.home.as_str()), ("root", "/root"));
    }
}
