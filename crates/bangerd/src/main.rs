//! The daemon: thinks for the owner, holds no root.

fn main() {}
