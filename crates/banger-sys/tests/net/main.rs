//! Links, taps and nftables on this kernel, each test in a network namespace of its own.
//!
//! Nothing waits: a frame written to a tap has gone all its way through bridge, filter and routing
//! when the write returns, so what is not there to be read then was dropped.
#![allow(
    unsafe_code,
    reason = "a guest's end of a tap, and another user's attempt to be one, need raw calls"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what a test calls may panic as a test may, and says what it skips"
)]

mod connections;
mod filter;
mod frame;
mod guest;
mod links;
mod sets;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` in a thread with a fresh network namespace; says so and returns where that is refused.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        // SAFETY: only this thread's network namespace changes, no file descriptor table.
        let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        if let Err(errno) = entered {
            eprintln!("skipped: no fresh network namespace ({errno}); needs root");
            return;
        }
        // A namespace is born with what the machine's own has.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        test();
    })
    .join()
    .unwrap();
}

/// Loads `rules` by nft; its complaint if it refuses them, `None` if there is no nft.
fn load(rules: &str) -> Option<Result<(), String>> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        eprintln!("skipped: no /usr/sbin/nft");
        return None;
    }
    let mut nft = Command::new("/usr/sbin/nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = nft.stdin.take().unwrap();
    stdin.write_all(rules.as_bytes()).unwrap();
    drop(stdin);
    let output = nft.wait_with_output().unwrap();
    Some(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}
