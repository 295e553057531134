//! The program inside the guest: init when it is PID 1, exec, files, network, health.

fn main() {}
