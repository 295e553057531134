//! The reference of all commands as Markdown, made from clap's definitions: what stands in
//! `docs/cli.md`.

use clap::{Arg, Command};
use std::fmt::Write;

/// The whole reference.
pub fn markdown() -> String {
    let mut root = crate::command();
    root.build();
    let mut out = String::from(
        "# The command line\n\n\
         Made from the program's own definitions; a test compares them \
         (`UPDATE_DOCS=1 cargo test -p banger --test cli reference` writes it anew).\n",
    );
    section(&mut out, &root, "banger", true);
    out
}

/// One command and those below it. Global options are shown with the root alone.
fn section(out: &mut String, command: &Command, path: &str, is_root: bool) {
    let mut push = |text: String| out.push_str(&text);
    push(format!("\n## `{path}`\n\n"));
    let about = command.get_long_about().or(command.get_about());
    if let Some(about) = about {
        push(format!("{}\n\n", escape(&about.to_string())));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    push(format!("```text\n{usage}\n```\n"));
    let aliases: Vec<_> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        push(format!("\nAlso: `{}`\n", aliases.join("`, `")));
    }
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && (is_root || !arg.is_global_set()))
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if !arguments.is_empty() {
        push("\n".to_owned());
        for arg in arguments {
            argument(out, arg);
        }
    }
    let children: Vec<_> = command
        .get_subcommands()
        .filter(|child| !child.is_hide_set() && child.get_name() != "help")
        .collect();
    for child in children {
        section(out, child, &format!("{path} {}", child.get_name()), false);
    }
}

fn argument(out: &mut String, arg: &Arg) {
    let values: Vec<_> = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let takes_value = arg.get_action().takes_values();
    let value = if takes_value {
        values.join(" ")
    } else {
        String::new()
    };
    let mut name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
        (Some(short), None) => format!("-{short} {value}"),
        (None, Some(long)) => format!("--{long} {value}"),
        (None, None) => value,
    };
    name.truncate(name.trim_end().len());
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let possible: Vec<_> = if takes_value {
        arg.get_possible_values()
            .iter()
            .map(|value| format!("`{}`", value.get_name()))
            .collect()
    } else {
        Vec::new()
    };
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    write!(out, "- `{name}`: {}", escape(&help)).expect("writing to a String cannot fail");
    if !possible.is_empty() {
        out.push_str(&format!(" ({})", possible.join(", ")));
    }
    if takes_value && !defaults.is_empty() {
        out.push_str(&format!("; default {}", defaults.join(" ")));
    }
    out.push('\n');
}

/// Text in which Markdown would see tags.
fn escape(text: &str) -> String {
    text.replace('<', "&lt;")
}
