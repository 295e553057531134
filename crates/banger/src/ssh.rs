//! How OpenSSH's client is told to reach a VM: through us, with pinned host keys, and with
//! nothing of the user's forwarded.

use crate::error::CliError;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The suffix of a VM's host name.
pub(crate) const SUFFIX: &str = ".vm";

/// The options that say how a VM is reached, as `(keyword, value)` of ssh_config.
pub(crate) fn options(
    rootless: bool,
    known_hosts: &Path,
    identity: &Path,
    host: &str,
) -> Result<Vec<(&'static str, String)>, CliError> {
    Ok(vec![
        ("ProxyCommand", proxy_command(rootless, host)?),
        ("UserKnownHostsFile", quoted_path(known_hosts)?),
        ("GlobalKnownHostsFile", "/dev/null".into()),
        ("StrictHostKeyChecking", "yes".into()),
        ("UpdateHostKeys", "no".into()),
        ("IdentitiesOnly", "yes".into()),
        ("IdentityFile", quoted_path(identity)?),
        ("ForwardAgent", "no".into()),
        ("ForwardX11", "no".into()),
        ("PermitLocalCommand", "no".into()),
        ("LogLevel", "ERROR".into()),
    ])
}

/// The command that joins ssh to a VM, as a line for the user's shell. `host` is a checked
/// name, or `%n` for ssh to fill in.
fn proxy_command(rootless: bool, host: &str) -> Result<String, CliError> {
    let exe = std::env::current_exe()
        .map_err(|source| CliError::io("find banger's own program", &source))?;
    let mut words = Vec::new();
    // ssh runs it with the environment of a later day.
    for name in ["BANGER_HOME", "BANGER_MODE"] {
        if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            if words.is_empty() {
                words.push("env".to_owned());
            }
            words.push(shell_word(setting.as_bytes())?);
        }
    }
    words.push(shell_word(exe.as_os_str().as_bytes())?);
    if rootless {
        words.push("--rootless".to_owned());
    }
    words.push("ssh-proxy".to_owned());
    words.push(host.to_owned());
    Ok(words.join(" "))
}

/// A word in single quotes for a shell, with ssh's own `%` doubled.
fn shell_word(word: &[u8]) -> Result<String, CliError> {
    let word = plain_text(word)?;
    Ok(format!(
        "'{}'",
        word.replace('\'', "'\\''").replace('%', "%%")
    ))
}

/// A path in double quotes for ssh_config, with ssh's own `%` doubled.
fn quoted_path(path: &Path) -> Result<String, CliError> {
    let text = plain_text(path.as_os_str().as_bytes())?;
    // ssh_config has no way to write these inside quotes that all versions read alike.
    if text.contains(['"', '\\']) || text.contains("${") {
        return Err(CliError::failed(format!(
            "write {path:?} into ssh's configuration: it has a character that ssh would change"
        ))
        .hint("set BANGER_HOME to a directory with a plain name"));
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

fn plain_text(bytes: &[u8]) -> Result<String, CliError> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.chars().any(char::is_control))
        .map(str::to_owned)
        .ok_or_else(|| {
            CliError::failed(format!(
                "write {:?} into ssh's configuration: it has control characters or is no UTF-8",
                String::from_utf8_lossy(bytes)
            ))
        })
}

/// Checks a user's name before it goes near a command line.
pub(crate) fn check_user(user: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if user.is_empty() || user.len() > 64 || user.starts_with('-') || !user.chars().all(is_plain) {
        return Err("a user's name has letters, digits, . _ - and does not begin with -".into());
    }
    Ok(user.to_owned())
}

/// The block of ssh_config that makes a plain `ssh NAME.vm` work.
pub(crate) fn config_block(
    rootless: bool,
    known_hosts: &Path,
    identity: &Path,
) -> Result<String, CliError> {
    let mut block = format!("# Written by banger ssh-config.\nHost *{SUFFIX}\n    User root\n");
    for (keyword, value) in options(rootless, known_hosts, identity, "%n")? {
        block.push_str(&format!("    {keyword} {value}\n"));
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_shell_and_ssh() {
        assert_eq!(shell_word(b"/a b/c").unwrap(), "'/a b/c'");
        assert_eq!(shell_word(b"it's $(x) 5%").unwrap(), "'it'\\''s $(x) 5%%'");
        assert!(shell_word(b"a\nb").is_err());
        assert_eq!(quoted_path(Path::new("/a b/%h")).unwrap(), "\"/a b/%%h\"");
        for bad in ["/a\"b", "/a\\b", "/${HOME}", "/a\nb"] {
            assert!(quoted_path(Path::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_refuses_options_and_shell() {
        assert!(check_user("www-data").is_ok());
        for bad in ["", "-oProxyCommand=x", "$(x)", "a b", "a\n", "a@b", "%r"] {
            assert!(check_user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_block_forwards_nothing() {
        let block = config_block(false, Path::new("/k"), Path::new("/i")).unwrap();
        for line in [
            "Host *.vm",
            "ForwardAgent no",
            "ForwardX11 no",
            "PermitLocalCommand no",
            "StrictHostKeyChecking yes",
            "ssh-proxy %n",
        ] {
            assert!(block.contains(line), "{line} in {block}");
        }
    }
}
