//! The question before something is destroyed.

use super::Ui;
use crate::error::{CliError, Kind};
use std::io::{IsTerminal, Write};

impl Ui {
    /// Asks `question` (which needs no question mark) on the terminal. Without a terminal, or
    /// when the answer is not yes, it is a failure: an aborted prompt is no success.
    pub(crate) fn confirm(&self, question: &str, hint: &str) -> Result<(), CliError> {
        let refuse = |why: &str| {
            Err(CliError::new(Kind::ConfirmationNeeded, format!("{question}: {why}")).hint(hint))
        };
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return refuse("not confirmed, and there is no terminal to ask on");
        }
        let mut stderr = std::io::stderr().lock();
        let asked = write!(stderr, "{}? [y/N] ", super::sanitize::line(question))
            .and_then(|()| stderr.flush());
        asked.map_err(|source| CliError::output(&source))?;
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|source| CliError::io("read the answer", &source))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => refuse("aborted"),
        }
    }
}
