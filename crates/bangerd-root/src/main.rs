//! The root helper: carries out the few verbs of `banger-priv` and nothing else.
//!
//! It runs as a service with systemd's socket, as a child of the daemon with a socket that it was
//! started with, or once, to remove everything it ever made. It is told nothing but where things
//! are and who the owner is; the environment is not believed.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "a test looks from outside"
    )
)]

mod arguments;
mod dispatch;
mod entry;
mod helper;
mod ledger;
mod log;
mod ops;
mod policy;
mod refusal;
mod server;
mod undo;
mod watch;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use banger_ipc::{Activation, socket_at};
use banger_priv::{Refusal, RefusalKind};
use banger_sys::signals::{SIGINT, SIGTERM, block, send, wait};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};

use arguments::{Arguments, Mode};
use helper::Helper;
use policy::END_LIMIT;
use refusal::{failed, refuse};
use server::Server;

const STOPPING: [i32; 2] = [SIGTERM, SIGINT];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments
        .next()
        .is_some_and(|name| name == ops::stage::NAME)
    {
        return ops::stage::run();
    }
    let ran = Arguments::parse(arguments).and_then(|arguments| match arguments.mode {
        Mode::Teardown => tear_down(&arguments),
        Mode::Serve => run(&arguments),
    });
    match ran {
        Ok(code) => code,
        Err(refusal) => {
            log::line(&refusal.message);
            ExitCode::FAILURE
        }
    }
}

/// What every mode begins with: nothing that is made can be entered by others, nothing dumped.
fn begin(arguments: &Arguments) -> Result<Arc<Helper>, Refusal> {
    let harden = banger_sys::caps::harden_process();
    harden.map_err(|errno| failed("harden the process", &errno))?;
    block(&STOPPING).map_err(|errno| failed("block signals", &errno))?;
    if !geteuid().is_root() {
        return Err(refuse(RefusalKind::Unsupported, "start: not root"));
    }
    arguments.open().map(Arc::new)
}

fn run(arguments: &Arguments) -> Result<ExitCode, Refusal> {
    let activation = Activation::read(|name| std::env::var(name).ok());
    let wrong = |errno: Errno| failed("take over the socket", &errno);
    let (socket, listens) = match arguments.fd {
        Some(fd) => socket_at(fd).map_err(wrong)?,
        None => match activation.listener().map_err(wrong)? {
            Some(socket) => (socket, true),
            None => {
                let message = "start: no socket; systemd passes one, or --fd names it";
                return Err(refuse(RefusalKind::Invalid, message));
            }
        },
    };
    let helper = begin(arguments)?;
    for (name, why) in helper.ledger().foreign() {
        log::line(&format!("not believed in the ledger: {name:?}: {why}"));
    }
    let restored = ops::rules::restore(&helper, &mut helper.network());
    if let Err(refusal) = restored {
        log::line(&refusal.message);
    }
    let watched = watch::start(&helper);
    watched.map_err(|error| failed("watch the rules", &error))?;
    let server = Arc::new(Server::new(Arc::clone(&helper)));
    start(&server, socket, listens)?;
    let told = activation.notify("READY=1");
    told.map_err(|errno| failed("notify systemd", &errno))?;
    while wait(&STOPPING, activation.heartbeat())
        .map_err(|errno| failed("wait for signals", &errno))?
        .is_none()
    {
        activation.notify("WATCHDOG=1").ok();
    }
    activation.notify("STOPPING=1").ok();
    if !server.end(END_LIMIT) {
        log::line("ended with requests at work");
        return Ok(ExitCode::FAILURE);
    }
    // A daemon's own helper has nobody who would uninstall it.
    if !listens && helper.ledger().entries().is_empty() {
        ops::bridge::remove(&helper, &mut helper.network())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves a listener, or one connection, with whose end the helper ends.
fn start(server: &Arc<Server>, socket: OwnedFd, listens: bool) -> Result<(), Refusal> {
    let server = Arc::clone(server);
    spawn(move || {
        if listens {
            let errno = server.serve(&socket);
            log::line(&format!("accept: {}", refusal::chain(&errno)));
        } else {
            server.converse(socket);
        }
        stop();
    })
}

fn stop() {
    send(getpid(), SIGTERM).ok();
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
    let thread = std::thread::Builder::new().spawn(work);
    thread
        .map(drop)
        .map_err(|error| failed("start a thread", &error))
}

/// Removes everything that is proved ours and tells what. Fails if something is left.
fn tear_down(arguments: &Arguments) -> Result<ExitCode, Refusal> {
    let helper = begin(arguments)?;
    let mut swept = ops::reclaim::sweep(&helper, &[]);
    match ops::bridge::remove(&helper, &mut helper.network()) {
        Ok(mut removed) => swept.removed.append(&mut removed),
        Err(refusal) => swept.left.push(refusal.message),
    }
    let foreign = helper.ledger().foreign().to_vec();
    let foreign = foreign
        .into_iter()
        .map(|(name, why)| format!("{name:?} in the ledger: {why}"));
    swept.left.extend(foreign);
    let lines = swept.removed.iter().map(|line| format!("removed {line}"));
    let lines = lines.chain(swept.left.iter().map(|line| format!("left {line}")));
    for line in lines {
        let line = format!("{}\n", refusal::sanitised(&line, 500));
        rustix::io::write(rustix::stdio::stdout(), line.as_bytes()).ok();
    }
    if swept.left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
