//! The only room that writes to standard output and standard error.
//!
//! Standard output is data, standard error is talk. What came from a guest or the daemon
//! passes [`sanitize`] before it is shown; raw bytes go out only through [`Ui::raw`], for
//! streams that are the user's own data. With `--json` an error is one line
//! `{"error":{...}}` on standard error, so that standard output never holds half an answer.

pub(crate) mod attached;
mod details;
pub(crate) mod progress;
mod prompt;
pub(crate) mod sanitize;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod template;

use crate::error::{CliError, Kind};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use progress::Mode;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use table::Tabular;
use template::Template;

/// How the user wants to be talked to.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    /// Shown things are JSON.
    pub json: bool,
    /// Only ids on standard output, no talk.
    pub quiet: bool,
    /// More talk.
    pub verbose: bool,
    /// How progress is shown.
    pub progress: Mode,
}

impl Ui {
    /// Writes text to standard output as it is; the caller has sanitised what needs it.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        self.raw(text.as_bytes())
    }

    /// Writes bytes to standard output as they are: files, and logs asked for raw.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|source| CliError::output(&source))
    }

    /// Writes `value` as JSON, indented, in characters that deceive no terminal.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|source| CliError::failed("write the answer as JSON").because(&source))?;
        self.text(&(plain_json(&text) + "\n"))
    }

    /// Writes `value` as one line of JSON, for lists that have no end.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value)
            .map_err(|source| CliError::failed("write the answer as JSON").because(&source))?;
        self.text(&(plain_json(&text) + "\n"))
    }

    /// Shows a list: a table, JSON, a template's lines, or ids.
    pub(crate) fn list<T: Tabular + Serialize>(
        &self,
        rows: &[T],
        format: Option<&Template>,
    ) -> Result<(), CliError> {
        if let Some(template) = format {
            let mut out = String::new();
            for row in rows {
                out.push_str(&render(template, row)?);
                out.push('\n');
            }
            return self.text(&out);
        }
        if self.json {
            return self.json(&rows);
        }
        if self.quiet {
            let ids: String = rows.iter().map(|row| row.id() + "\n").collect();
            return self.text(&ids);
        }
        self.text(&table::render(rows))
    }

    /// Shows one thing in full: its fields, a line each, or JSON, or a template's line.
    pub(crate) fn inspect<T: Tabular + Serialize>(
        &self,
        thing: &T,
        format: Option<&Template>,
    ) -> Result<(), CliError> {
        if let Some(template) = format {
            return self.text(&(render(template, thing)? + "\n"));
        }
        if self.json {
            return self.json(thing);
        }
        if self.quiet {
            return self.text(&(thing.id() + "\n"));
        }
        self.text(&details::render(&to_value(thing)?))
    }

    /// Says what a command made, changed or removed: its name, or the whole as JSON, or the id.
    pub(crate) fn done<T: Tabular + Serialize>(&self, thing: &T) -> Result<(), CliError> {
        if self.json {
            return self.json(thing);
        }
        if self.quiet {
            return self.text(&(thing.id() + "\n"));
        }
        self.text(&(sanitize::line(&thing.name()) + "\n"))
    }

    /// Says something to the user, on standard error. Lost if that is closed: talk is no data.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            talk(&format!("{}\n", sanitize::lines(text)));
        }
    }

    /// Says something that only `-v` wants to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// Shows a failure: one line, its causes, a blank line, the hint; or one line of JSON.
    /// What was shown already and a reader that is gone are passed over.
    pub(crate) fn error(&self, error: &CliError) {
        if matches!(error.kind, Kind::Reported(_) | Kind::OutputClosed) {
            return;
        }
        if self.json {
            let body = json!({"error": {
                "code": error.code(),
                "message": error.message,
                "causes": error.causes,
                "hint": error.hint,
            }});
            return talk(&(plain_json(&body.to_string()) + "\n"));
        }
        let (bold, plain) = paint();
        let message = without_numbers(&error.message);
        let mut out = format!("{bold}error:{plain} {}\n", sanitize::line(&message));
        for cause in &error.causes {
            writeln!(
                out,
                "  caused by: {}",
                sanitize::line(&without_numbers(cause))
            )
            .expect("writing to a String cannot fail");
        }
        if let Some(hint) = &error.hint {
            write!(out, "\n{bold}hint:{plain} {}\n", sanitize::line(hint))
                .expect("writing to a String cannot fail");
        }
        talk(&out);
    }
}

/// Shows what clap says about a command line (its mistake, or the help that was asked for)
/// and returns the exit code.
pub(crate) fn usage(error: &clap::Error, wants_json: bool, attached: bool) -> i32 {
    let rendered = error.render();
    let is_answer = !error.use_stderr();
    let colour = if is_answer {
        is_colourful(&io::stdout())
    } else {
        is_colourful(&io::stderr())
    };
    let text = if colour {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    if is_answer {
        let mut stdout = io::stdout().lock();
        return match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Ok(()) => 0,
            Err(source) => CliError::output(&source).exit_code(false).into(),
        };
    }
    let plain = rendered.to_string();
    let message = plain.lines().next().unwrap_or_default();
    let hint = usage_hint(error, attached);
    let failure = CliError::usage(message.trim_start_matches("error: "))
        .hint(hint.as_deref().unwrap_or("banger --help"));
    if wants_json {
        let ui = Ui {
            json: true,
            quiet: false,
            verbose: false,
            progress: Mode::None,
        };
        ui.error(&failure);
    } else {
        talk(&text);
        if let Some(hint) = hint {
            let (bold, plain) = paint();
            talk(&format!("\n{bold}hint:{plain} {}\n", sanitize::line(&hint)));
        }
    }
    failure.exit_code(attached).into()
}

/// What somebody used to other tools should type instead.
fn usage_hint(error: &clap::Error, attached: bool) -> Option<String> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) if !word.starts_with('-') => Some(word),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = word(ContextKind::InvalidSubcommand)?;
            let command = crate::command();
            let verb = command.find_subcommand("vm")?.find_subcommand(word)?;
            Some(format!("banger vm {}", verb.get_name()))
        }
        ErrorKind::UnknownArgument if attached => {
            let word = word(ContextKind::InvalidArg)?;
            Some(format!(
                "put -- before the command, as in: banger run IMAGE -- {word}"
            ))
        }
        _ => None,
    }
}

/// `text` without the numbers that the standard library adds to the system's own words.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                out.push_str(rest);
            }
            _ => {
                out.push_str(" (os error ");
                out.push_str(part);
            }
        }
    }
    out
}

/// Writes talk; a closed standard error is nobody's loss.
fn talk(text: &str) {
    let mut stderr = io::stderr().lock();
    let written = stderr.write_all(text.as_bytes());
    drop(written.and_then(|()| stderr.flush()));
}

/// The escapes around a heading word on standard error, or nothing.
fn paint() -> (&'static str, &'static str) {
    if is_colourful(&io::stderr()) {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    }
}

/// Whether colour and weight may be used on `stream`: a terminal, and `NO_COLOR` is not set.
fn is_colourful(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn to_value<T: Serialize>(thing: &T) -> Result<Value, CliError> {
    serde_json::to_value(thing)
        .map_err(|source| CliError::failed("write the answer as JSON").because(&source))
}

fn render<T: Serialize>(template: &Template, thing: &T) -> Result<String, CliError> {
    template
        .render(&to_value(thing)?)
        .map_err(|why| CliError::usage(format!("use the template of --format: {why}")))
}

/// JSON with every character that could deceive a terminal written as `\uXXXX`, which means
/// the same. (Such characters can stand only inside strings.)
fn plain_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut units = [0_u16; 2];
    for c in text.chars() {
        if c == '\n' || sanitize::line(c.encode_utf8(&mut [0; 4])) == c.to_string() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            write!(out, "\\u{unit:04x}").expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_in_words() {
        for (text, expected) in [
            ("open: No such file (os error 2)", "open: No such file"),
            ("a (os error 13): b (os error 2)", "a: b"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error 2", "a (os error 2"),
        ] {
            assert_eq!(without_numbers(text), expected);
        }
    }

    #[test]
    fn json_deceives_no_terminal_and_means_the_same() {
        let value = json!({"name": "a\u{202e}b\u{9b}c\x1b\u{e0041}é"});
        let text = plain_json(&value.to_string());
        assert!(text.contains("\\u202e") && text.contains("\\u009b") && text.contains('é'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
