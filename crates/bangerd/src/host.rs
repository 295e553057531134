//! What the daemon finds on its host: each finding with its fix.

use crate::daemon::{Daemon, look_at_host};
use crate::firewall::{self, Signs};
use crate::privilege::{Helper, Mode};
use crate::problem::Refusal;
use crate::ssh;
use crate::store::Condition;
use crate::vm::create::disk_free;
use crate::vm::place::VmPlace;
use banger_api::{Check, CheckStatus, EngineView, HostView, NetworkMode};
use banger_engine::{Engine, Host, Level};
use banger_names::{ByteSize, VmId};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Below this an image build is likely to fail.
const COMFORTABLE: ByteSize = ByteSize::gib(5);

/// Looks at the host.
pub(crate) async fn look(daemon: &Arc<Daemon>) -> HostView {
    let network = match daemon.config().await.unwrap_or_default().vm.network {
        Some(network) => network,
        None => daemon.best_network().await,
    };
    let engine = daemon.engine(network).await;
    let shown = match &engine {
        Ok(engine) => Some(engine_view(engine.as_ref(), "")),
        Err(_) => {
            let other = daemon.engine(NetworkMode::None).await.ok();
            other.map(|engine| engine_view(engine.as_ref(), ", only with --network none"))
        }
    };
    let mut checks = match look_at_host().await {
        Ok(host) => engine_checks(&host, daemon.helper().is_some()),
        Err(refusal) => vec![failed("engine", &refusal)],
    };
    if let Err(refusal) = &engine {
        checks.push(failed("engine", refusal));
    }
    checks.extend(helper_checks(daemon).await);
    checks.push(agent_check(daemon));
    checks.push(config_check(daemon).await);
    checks.extend(state_checks(daemon));
    checks.push(disk_check("disk.state", &daemon.dirs().state, daemon));
    checks.push(disk_check("disk.data", &daemon.dirs().data, daemon));
    checks.push(program_check(
        "build.mmdebstrap",
        find_program("mmdebstrap").as_deref(),
        "building images needs mmdebstrap",
        "sudo apt-get install mmdebstrap",
    ));
    checks.push(kernel_build_check());
    checks.push(program_check(
        "ssh.keygen",
        ssh::keygen(),
        "ssh needs ssh-keygen",
        "sudo apt-get install openssh-client",
    ));
    checks.push(kernel_check(daemon).await);
    checks.push(image_check(daemon).await);
    HostView {
        mode: mode(daemon).into(),
        engine: shown,
        checks,
    }
}

/// How VMs get their privileges, in one word.
pub(crate) fn mode(daemon: &Daemon) -> &'static str {
    let mode = daemon.helper().map_or(Mode::Rootless, Helper::mode);
    mode.as_str()
}

fn engine_view(engine: &dyn Engine, limit: &str) -> EngineView {
    EngineView {
        name: engine.kind().to_string(),
        description: format!("{}{limit}", engine.describe()),
    }
}

fn engine_checks(host: &Host, jailed: bool) -> Vec<Check> {
    host.findings(jailed)
        .into_iter()
        .map(|finding| Check {
            name: format!("engine.{}", finding.subject),
            status: match finding.level {
                Level::Ok => CheckStatus::Ok,
                Level::Warning => CheckStatus::Warning,
                Level::Error => CheckStatus::Failed,
            },
            message: finding.message,
            fix: finding.fix,
        })
        .collect()
}

/// The helper, the VMs' bridge and their names.
async fn helper_checks(daemon: &Daemon) -> Vec<Check> {
    let Some(helper) = daemon.helper() else {
        return Vec::new();
    };
    let status = match helper.status().await {
        Ok(status) => status,
        Err(error) => return vec![failed("helper", &error.refusal())],
    };
    let own = env!("CARGO_PKG_VERSION");
    let mut checks = vec![if status.version == own {
        let running = status.vms.iter().filter(|vm| vm.is_running).count();
        ok(
            "helper",
            format!("bangerd-root {own} answers; {running} VMs run in its jails"),
        )
    } else {
        absent(
            "helper",
            &format!(
                "bangerd-root is version {}, bangerd is {own}: they may not understand each other",
                status.version
            ),
            "sudo banger system restart",
        )
    }];
    let known: HashSet<VmId> = daemon.vms().all().into_iter().map(|vm| vm.id).collect();
    let mut left = status
        .vms
        .iter()
        .filter(|entry| !known.contains(&entry.vm.id));
    if let Some(first) = left.next() {
        checks.push(absent(
            "helper.left",
            &format!(
                "it has what it made for {} starts of VMs that are not known, as {}",
                left.count() + 1,
                first.vm
            ),
            "banger doctor --fix removes it",
        ));
    }
    let news = daemon.bridge().news().await;
    checks.push(match &news.standing {
        Some(bridge) => ok(
            "network.bridge",
            format!(
                "{} has {}, masqueraded outward",
                bridge.bridge, bridge.subnet
            ),
        ),
        None => ok(
            "network.bridge",
            "the first VM with --network nat makes it".into(),
        ),
    });
    let bridge = daemon.config().await.unwrap_or_default().network.bridge;
    checks.push(match &status.others {
        Some(others) => firewall::judge(others, bridge.as_str(), Signs::look()),
        None => absent(
            "network.firewall",
            "whether another firewall drops what VMs send could not be seen",
            "journalctl -b -u bangerd-root",
        ),
    });
    if let Some(why) = &news.nameless {
        checks.push(absent(
            "network.names",
            &format!("the host does not resolve NAME.vm: {why}"),
            "install systemd-resolved, or use `banger ssh NAME`",
        ));
    } else if news.standing.is_some() {
        checks.push(ok(
            "network.names",
            "NAME.vm is the address of a running VM".into(),
        ));
    }
    checks
}

/// The database, and directories that it knows nothing of.
fn state_checks(daemon: &Daemon) -> Vec<Check> {
    let mut checks = vec![match daemon.condition() {
        Condition::Sound => ok("state.database", "it is sound".into()),
        Condition::Damaged { aside, why } => absent(
            "state.database",
            &format!("it was damaged ({why}); VMs were recovered from the copies of their records"),
            &format!(
                "look whether all VMs are there, then rm {}",
                aside.display()
            ),
        ),
        Condition::Newer { why } => Check {
            name: "state.database".into(),
            status: CheckStatus::Failed,
            message: format!("VMs are only shown, nothing is changed: {why}"),
            fix: Some("install the newer banger again".into()),
        },
    }];
    for vm in daemon.vms().all() {
        if let Some(hung) = vm.now().hung() {
            let (name, why) = (vm.name(), hung.why);
            checks.push(absent(
                "state.hung",
                &format!("VM {name}: {why}"),
                &format!("wait until it answers, or banger vm kill {name}"),
            ));
        }
    }
    let orphans = daemon.orphans();
    if let Some(first) = orphans.first() {
        let place = VmPlace::of(daemon.dirs(), &first.id);
        checks.push(absent(
            "state.unknown",
            &format!(
                "{} directories of VMs that the database does not know, as {}: {}",
                orphans.len(),
                place.state.display(),
                first.why
            ),
            "banger doctor --fix removes them, with what is on their disks",
        ));
    }
    checks
}

fn agent_check(daemon: &Daemon) -> Check {
    match daemon.agent() {
        Ok(path) if path.is_file() => ok("agent", path.display().to_string()),
        Ok(path) => Check {
            name: "agent".into(),
            status: CheckStatus::Failed,
            message: format!("there is no agent at {}", path.display()),
            fix: Some("install banger-agent beside bangerd, or correct BANGER_AGENT".into()),
        },
        Err(refusal) => failed("agent", &refusal),
    }
}

async fn config_check(daemon: &Daemon) -> Check {
    match daemon.config().await {
        Ok(_) => ok("config", daemon.dirs().config.display().to_string()),
        Err(refusal) => failed("config", &refusal),
    }
}

fn disk_check(name: &str, path: &Path, daemon: &Daemon) -> Check {
    let free = match disk_free(path) {
        Ok(free) => free,
        Err(refusal) => return failed(name, &refusal),
    };
    let status = if free < daemon.limits().reserve {
        CheckStatus::Failed
    } else if free < COMFORTABLE {
        CheckStatus::Warning
    } else {
        CheckStatus::Ok
    };
    Check {
        name: name.into(),
        status,
        message: format!("{free} free at {}", path.display()),
        fix: (status != CheckStatus::Ok)
            .then(|| "remove what is not needed: `banger vm list`, `banger image ls`".into()),
    }
}

fn program_check(name: &str, found: Option<&str>, missing: &str, fix: &str) -> Check {
    match found {
        Some(path) => ok(name, path.to_owned()),
        None => Check {
            name: name.into(),
            status: CheckStatus::Warning,
            message: missing.into(),
            fix: Some(fix.into()),
        },
    }
}

fn kernel_build_check() -> Check {
    let missing = banger_images::missing_kernel_build_packages();
    if missing.is_empty() {
        return ok("build.kernel", "a kernel can be built".into());
    }
    absent(
        "build.kernel",
        &format!("building a kernel needs {}", missing.join(", ")),
        &format!("sudo apt-get install {}", missing.join(" ")),
    )
}

async fn kernel_check(daemon: &Daemon) -> Check {
    match daemon.with_images(|images| images.kernel_default()).await {
        Ok(Some(name)) => ok("kernel", name.as_str().to_owned()),
        Ok(None) => absent(
            "kernel",
            "no default kernel yet; the first run gets it",
            "banger kernel pull",
        ),
        Err(error) => failed("kernel", &error.into()),
    }
}

async fn image_check(daemon: &Daemon) -> Check {
    let wanted = daemon.config().await.unwrap_or_default().vm.image;
    let name = wanted.clone();
    match daemon.with_images(move |images| images.image(&name)).await {
        Ok(image) => ok("image", format!("{wanted} is {}", image.digest.short())),
        Err(banger_images::ImagesError::NotFound { .. }) => absent(
            "image",
            &format!("no image {wanted:?} yet; the first run builds the default one"),
            "banger image build debian",
        ),
        Err(error) => failed("image", &error.into()),
    }
}

/// A program in the places where distributions put programs.
fn find_program(name: &str) -> Option<String> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
        .into_iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| Path::new(path).is_file())
}

fn ok(name: &str, message: String) -> Check {
    Check {
        name: name.into(),
        status: CheckStatus::Ok,
        message,
        fix: None,
    }
}

fn absent(name: &str, message: &str, fix: &str) -> Check {
    Check {
        name: name.into(),
        status: CheckStatus::Warning,
        message: message.into(),
        fix: Some(fix.into()),
    }
}

fn failed(name: &str, refusal: &Refusal) -> Check {
    Check {
        name: name.into(),
        status: CheckStatus::Failed,
        message: refusal.0.message.clone(),
        fix: refusal.0.hint.clone(),
    }
}
