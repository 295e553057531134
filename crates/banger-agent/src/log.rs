//! One line a message: to the kernel's log as init, to standard error before and otherwise.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

static KERNEL_LOG: OnceLock<File> = OnceLock::new();

/// From now on messages go to `/dev/kmsg`, and by it to the console. Without it they stay
/// on standard error, which is the console too.
pub fn use_kernel_log() {
    if let Ok(file) = File::options().write(true).open("/dev/kmsg") {
        // Opened twice is as good as once.
        drop(KERNEL_LOG.set(file));
    }
}

/// Something failed.
pub fn error(message: &str) {
    write(3, message);
}

/// Something happened that a reader of the log will look for.
pub fn info(message: &str) {
    write(6, message);
}

/// Something that must show on the console whatever the kernel's log level is.
pub fn console(message: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        // Without a console there is nobody to read it.
        drop(console.write_all(format!("banger-agent: {message}\n").as_bytes()));
    }
}

fn write(level: u8, message: &str) {
    let line = message.replace('\n', " ");
    // There is no third place to report to when these fail.
    drop(match KERNEL_LOG.get() {
        Some(mut file) => file.write_all(format!("<{level}>banger-agent: {line}\n").as_bytes()),
        None => std::io::stderr().write_all(format!("banger-agent: {line}\n").as_bytes()),
    });
}

/// An error and its causes on one line: "do this: because of that".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
