//! The README's promise: every command in it works as typed.

use e2e::{TestEnv, finish};
use std::process::Command;

#[test]
fn every_command_of_the_readmes_tour_works_as_typed() {
    let env = TestEnv::new();
    // What needs an installation is typed in `installed.rs`.
    let readme = include_str!("../../README.md");
    let tour = readme.split("## Installed").next().unwrap();
    let commands: Vec<&str> = tour
        .split("```console\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let banger = env.banger(&[]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .current_dir(env.path())
            .env_clear();
        for (key, value) in banger.get_envs() {
            shell.env(key, value.unwrap());
        }
        let outcome = finish(&mut shell);
        assert_eq!(outcome.code, 0, "{command}: {outcome:#?}");
        let shown = readme
            .split(&format!("$ {command}\n"))
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        // What stands below a command is its output, but for ids, versions, sizes and ages.
        let is_stable = shown.split_whitespace().count() == 1 && !shown.contains('.');
        if is_stable && !shown.starts_with(['$', '`']) {
            assert_eq!(outcome.stdout.trim_end(), shown, "{command}");
        }
    }
    env.assert_nothing_left();
}

#[test]
fn the_readmes_configuration_says_the_defaults() {
    let env = TestEnv::bare();
    let without = env.json(&["config", "show"]);
    let readme = include_str!("../../README.md");
    let block = readme.split("```toml\n").nth(1).unwrap();
    let text = block.split("```").next().unwrap();
    std::fs::write(env.join("config.toml"), text).unwrap();
    assert_eq!(env.json(&["config", "show"]), without);
    // It is read at all.
    std::fs::write(
        env.join("config.toml"),
        text.replace("cpus = 1", "cpus = 2"),
    )
    .unwrap();
    assert_ne!(env.json(&["config", "show"]), without);
}
