//! How an installation stands: versions, services, what changed since, what it has made.

use super::host::Host;
use super::steps::digest_of;
use super::traces;
use super::units::Unit;
use crate::error::CliError;
use banger_api::client::Client;
use banger_api::{Check, CheckStatus, HostView, Install, VersionView};
use std::path::Path;

/// What brings an installation back to what it was.
const REPAIR: &str = "sudo banger system install";

/// Looks at everything that can be seen without being root.
pub(crate) async fn examine(host: &Host, install: &Install) -> Vec<Check> {
    let mut checks = vec![owner(host, install), client(install)];
    checks.extend(daemon(install).await);
    checks.extend(Unit::ALL.map(|unit| service(host, unit)));
    checks.extend(drift(host, install));
    checks.push(group(host));
    checks.push(network(host));
    let vms = traces::scopes(host).len();
    checks.push(ok("vms", format!("{vms} run")));
    checks
}

fn owner(host: &Host, install: &Install) -> Check {
    let (name, uid) = (&install.owner.name, install.owner.uid);
    let entry = host.run("getent", &["passwd", name]).unwrap_or_default();
    let now = entry.split(':').nth(2).and_then(|text| text.parse().ok());
    if now == Some(uid) {
        return ok("owner", format!("{name} (uid {uid})"));
    }
    failed(
        "owner",
        format!("{name} has no longer the uid {uid}"),
        "sudo banger system uninstall, then install for the user that there is now",
    )
}

fn client(install: &Install) -> Check {
    let (own, theirs) = (env!("CARGO_PKG_VERSION"), &install.version);
    if own == theirs {
        return ok("version", format!("{own}, as is this program"));
    }
    warning(
        "version",
        format!("{theirs} is installed, this program is {own}"),
        REPAIR,
    )
}

async fn daemon(install: &Install) -> Vec<Check> {
    let name = "daemon";
    let uid = rustix::process::geteuid();
    if uid.as_raw() != install.owner.uid && !uid.is_root() {
        return vec![ok(name, "not asked: it answers its owner only".to_owned())];
    }
    let version = match version(install).await {
        Ok(daemon) if daemon.version == install.version => {
            ok(name, format!("answers, {}", daemon.version))
        }
        Ok(daemon) => warning(
            name,
            format!(
                "answers, but is {}: it runs since before {} was installed",
                daemon.version, install.version
            ),
            "sudo banger system restart",
        ),
        Err(error) => return vec![failed(name, error.message, "sudo banger system restart")],
    };
    // What the daemon sees of its VMs, of the helper and of what the helper made.
    let host: Result<HostView, _> = ask(install).get("/v1/host").await;
    let seen = match host {
        Ok(host) => host.checks,
        Err(error) => vec![failed("helper", CliError::from(error).message, REPAIR)],
    };
    let kinds = ["helper", "network.", "state."];
    let is_about = |check: &Check| kinds.iter().any(|kind| check.name.starts_with(kind));
    let mut checks = vec![version];
    checks.extend(seen.into_iter().filter(is_about));
    checks
}

/// A client for the installation's daemon, also for root.
pub(crate) fn ask(install: &Install) -> Client {
    Client::new(install.dirs().socket()).served_by(install.owner.uid)
}

/// Asks the installation's daemon which version it is.
pub(crate) async fn version(install: &Install) -> Result<VersionView, CliError> {
    Ok(ask(install).get("/v1/version").await?)
}

fn service(host: &Host, unit: Unit) -> Check {
    let name = match unit {
        Unit::Daemon => "unit.daemon",
        Unit::Helper => "unit.helper",
        Unit::Socket => "unit.socket",
        Unit::Slice => "unit.slice",
    };
    let said = host
        .run(
            "systemctl",
            &[
                "show",
                "--property=ActiveState,UnitFileState,DropInPaths",
                unit.file(),
            ],
        )
        .unwrap_or_default();
    let value = |key: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    let (active, enabled) = (value("ActiveState"), value("UnitFileState"));
    let mut message = format!("{} is {active}", unit.file());
    if matches!(unit, Unit::Daemon | Unit::Socket) {
        message = format!("{message}, {enabled}");
    }
    let changed = value("DropInPaths");
    if !changed.is_empty() {
        message = format!("{message}; changed by {changed}");
    }
    match (unit, active.as_str()) {
        // The socket starts it, the VMs fill it.
        (_, "active") | (Unit::Helper | Unit::Slice, "inactive") => ok(name, message),
        _ => failed(
            name,
            message,
            "sudo systemctl start bangerd (journalctl -u bangerd -u bangerd-root says why it is down)",
        ),
    }
}

/// Files that are not what was installed.
fn drift(host: &Host, install: &Install) -> Vec<Check> {
    let mut checks: Vec<Check> = install
        .files
        .iter()
        .filter_map(|(path, digest)| {
            let name = "file";
            match digest_of(&host.at(path)) {
                Ok(now) if now == *digest => None,
                Ok(_) => Some(warning(
                    name,
                    format!("{} is not what was installed", path.display()),
                    REPAIR,
                )),
                Err(error) => Some(failed(name, error.message, REPAIR)),
            }
        })
        .collect();
    if checks.is_empty() {
        let count = install.files.len();
        checks.push(ok("files", format!("all {count} are as installed")));
    }
    checks
}

fn group(host: &Host) -> Check {
    let name = banger_priv::GROUP;
    let check = "group";
    let Ok(entry) = host.run("getent", &["group", name]) else {
        return failed(check, format!("the group {name} is gone"), REPAIR);
    };
    let members = entry.trim_end().rsplit(':').next().unwrap_or_default();
    if members.is_empty() {
        return ok(check, format!("{name} has no members"));
    }
    failed(
        check,
        format!("{name} has members ({members}): all that they run may ask the root helper"),
        "sudo gpasswd --delete USER banger-ipc",
    )
}

fn network(host: &Host) -> Check {
    let links = traces::links(host);
    let bridges: Vec<&String> = links
        .iter()
        .filter(|name| {
            host.at(Path::new("/sys/class/net").join(name).join("bridge"))
                .exists()
        })
        .collect();
    let taps = links.len() - bridges.len();
    match bridges.first() {
        Some(bridge) => ok("links", format!("{bridge}, and {taps} others")),
        None => ok(
            "links",
            "none yet: the first VM with a network brings them".to_owned(),
        ),
    }
}

fn ok(name: &str, message: String) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Ok,
        message,
        fix: None,
    }
}

fn warning(name: &str, message: String, fix: &str) -> Check {
    Check {
        status: CheckStatus::Warning,
        fix: Some(fix.to_owned()),
        ..ok(name, message)
    }
}

fn failed(name: &str, message: String, fix: &str) -> Check {
    Check {
        status: CheckStatus::Failed,
        ..warning(name, message, fix)
    }
}
