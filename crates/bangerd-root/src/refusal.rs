//! Refusals: how an operation says no, in words that are fit to send and to log.

use std::error::Error;
use std::fmt::Display;

use banger_priv::{Refusal, RefusalKind};

/// The most bytes of a refusal's message.
const MAX_MESSAGE: usize = 500;

/// A refusal of this kind.
pub(crate) fn refuse(kind: RefusalKind, message: impl Display) -> Refusal {
    let message = sanitised(&message.to_string(), MAX_MESSAGE);
    Refusal { kind, message }
}

/// The refusal for what the system would not do: `what` and the error with all its causes.
pub(crate) fn failed(what: impl Display, error: &dyn Error) -> Refusal {
    refuse(RefusalKind::Failed, format!("{what}: {}", chain(error)))
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `text` in printable ASCII, everything else escaped, cut to `most` bytes.
pub(crate) fn sanitised(text: &str, most: usize) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        if matches!(character, ' '..='~') {
            plain.push(character);
        } else {
            plain.extend(character.escape_default());
        }
        if plain.len() >= most {
            plain.truncate(most);
            break;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_short_printable_line() {
        let message = refuse(RefusalKind::Failed, "a\n\u{1b}[2J\u{202e}\0é").message;
        assert_eq!(message, r"a\n\u{1b}[2J\u{202e}\u{0}\u{e9}");
        let long = refuse(RefusalKind::Failed, "é".repeat(10_000)).message;
        assert_eq!(long.len(), MAX_MESSAGE);
    }
}
