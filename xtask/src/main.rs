//! Chores of the repository: build, try, test, lint, bench.

fn main() {}
