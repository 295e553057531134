//! What the client can see of the host's health by itself; the daemon looks at the rest.

use crate::app::App;
use crate::daemon;
use crate::error::CliError;
use banger_api::{Check, CheckStatus, Dirs, HostView};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// Looks at everything. A daemon that cannot be reached is a finding, not a failure.
pub(crate) async fn examine(app: &App) -> Result<HostView, CliError> {
    let dirs = app.dirs()?;
    let mut checks = Vec::new();
    if app.install()?.is_none() {
        checks.push(runtime(&dirs));
    }
    let mut host = match ask(app).await {
        Ok(host) => {
            checks.push(ok("client.daemon", "the daemon answers"));
            host
        }
        Err(error) => {
            let mut message = error.message;
            for cause in &error.causes {
                message.push_str(": ");
                message.push_str(cause);
            }
            let fix = error.hint.filter(|hint| hint != "banger doctor");
            checks.push(failed("client.daemon", message, fix));
            HostView {
                mode: "unknown".into(),
                engine: None,
                checks: Vec::new(),
            }
        }
    };
    checks.push(socket(&dirs));
    checks.push(ssh_client());
    checks.append(&mut host.checks);
    host.checks = checks;
    Ok(host)
}

async fn ask(app: &App) -> Result<HostView, CliError> {
    Ok(app.client().await?.get("/v1/host").await?)
}

fn runtime(dirs: &Dirs) -> Check {
    match dirs.ensure_runtime() {
        Ok(()) => ok(
            "client.runtime",
            format!("{} is yours alone", dirs.runtime.display()),
        ),
        Err(error) => {
            let error = CliError::from(error);
            failed("client.runtime", error.message, error.hint)
        }
    }
}

fn socket(dirs: &Dirs) -> Check {
    let path = dirs.socket();
    let shown = path.display();
    let found = match std::fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(error) => {
            return failed(
                "client.socket",
                format!("look at the daemon's socket {shown}: {error}"),
                Some(format!(
                    "{} # and read what it says",
                    daemon::program(&daemon::Role::Own).display()
                )),
            );
        }
    };
    let mode = found.permissions().mode() & 0o777;
    if found.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("the socket {shown} belongs to uid {}", found.uid());
        return failed("client.socket", message, Some(format!("rm {shown}")));
    }
    if mode & 0o077 != 0 {
        return Check {
            status: CheckStatus::Warning,
            fix: Some(format!("chmod 600 {shown}")),
            ..ok(
                "client.socket",
                format!(
                    "the socket {shown} has mode {mode:04o}; its directory still keeps others out"
                ),
            )
        };
    }
    ok("client.socket", format!("{shown} has mode {mode:04o}"))
}

fn ssh_client() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("ssh").is_file());
    if found {
        return ok("client.ssh", "the ssh client is installed");
    }
    Check {
        status: CheckStatus::Warning,
        fix: Some("apt install openssh-client".into()),
        ..ok(
            "client.ssh",
            "the ssh client is not installed: banger ssh does not work",
        )
    }
}

fn ok(name: &str, message: impl Into<String>) -> Check {
    Check {
        name: name.into(),
        status: CheckStatus::Ok,
        message: message.into(),
        fix: None,
    }
}

fn failed(name: &str, message: String, fix: Option<String>) -> Check {
    Check {
        status: CheckStatus::Failed,
        fix,
        ..ok(name, message)
    }
}
