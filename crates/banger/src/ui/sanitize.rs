//! The one sanitiser: text from guests and the daemon, made safe to show on a terminal.
//!
//! Nothing that could move the cursor, change the terminal's state or the order in which
//! text reads gets through: it is shown as what it is (`\x1b`, `\u{202e}`). Bytes that are
//! no UTF-8 are shown as `\xNN`.

use std::fmt::Write;

/// One line: line breaks and tabs are made visible too.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        push(&mut out, c);
    }
    out
}

/// Several lines: line breaks and tabs stay, `\r\n` becomes a line break.
pub(crate) fn lines(text: &str) -> String {
    let mut sanitizer = LogSanitizer::default();
    let mut out = sanitizer.feed(text.as_bytes());
    out.push_str(&sanitizer.finish());
    out
}

/// Makes a log that comes in pieces safe; a character or line break may be cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct LogSanitizer {
    pending: Vec<u8>,
}

impl LogSanitizer {
    /// The next bytes, as text.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut out = String::with_capacity(pending.len());
        let mut rest = pending.as_slice();
        loop {
            let (valid, tail) = match std::str::from_utf8(rest) {
                Ok(text) => (text, &[][..]),
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    (std::str::from_utf8(valid).unwrap_or_default(), tail)
                }
            };
            // A `\r` at the end waits: the `\n` that makes it a line break may follow.
            let is_last = tail.is_empty();
            let held = is_last && valid.ends_with('\r');
            push_lines(
                &mut out,
                valid.strip_suffix('\r').filter(|_| held).unwrap_or(valid),
            );
            if held {
                self.pending.push(b'\r');
            }
            if is_last {
                return out;
            }
            let error_len = std::str::from_utf8(tail).err().and_then(|e| e.error_len());
            let Some(length) = error_len else {
                // A character that is cut off: it goes on in the next bytes.
                self.pending.extend_from_slice(tail);
                return out;
            };
            push_bytes(&mut out, &tail[..length]);
            rest = &tail[length..];
        }
    }

    /// What was still held back.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        push_bytes(&mut out, &std::mem::take(&mut self.pending));
        out
    }
}

fn push_lines(out: &mut String, text: &str) {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if chars.peek() == Some(&'\n') => {}
            c => push(out, c),
        }
    }
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("writing to a String cannot fail");
    }
}

/// Pushes `c`, or what it is if showing it could deceive.
fn push(out: &mut String, c: char) {
    let code = u32::from(c);
    let shown = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if c.is_control() => write!(out, "\\x{code:02x}"),
        c if is_deceptive(c) => write!(out, "\\u{{{code:x}}}"),
        c => out.write_char(c),
    };
    shown.expect("writing to a String cannot fail");
}

/// Characters without a shape of their own that change how others read: bidirectional
/// controls, invisible joiners and separators, byte order marks, tags, variation fillers.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What terminals have been attacked with.
    const CORPUS: [(&str, &str); 14] = [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b]52;c;ZXZpbA==\x1b\\", "\\x1b]52;c;ZXZpbA==\\x1b\\"),
        ("\u{9b}2J", "\\x9b2J"),
        ("\u{9d}0;x\u{9c}", "\\x9d0;x\\x9c"),
        ("\x1bP$q\x1b\\", "\\x1bP$q\\x1b\\"),
        ("a\x08\x08b", "a\\x08\\x08b"),
        ("ok\rerror", "ok\\rerror"),
        ("a\nfake line", "a\\nfake line"),
        ("evil\u{202e}gpj.exe", "evil\\u{202e}gpj.exe"),
        ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
        ("zero\u{200b}width", "zero\\u{200b}width"),
        ("nul\0del\x7f", "nul\\x00del\\x7f"),
        ("grüße 日本 \u{1f600}", "grüße 日本 \u{1f600}"),
    ];

    #[test]
    fn line_makes_attacks_visible_and_leaves_text_alone() {
        for (attack, shown) in CORPUS {
            assert_eq!(line(attack), shown);
        }
    }

    #[test]
    fn log_is_the_same_at_every_cut() {
        let log = "a\r\nb\x1b[0m\r\u{202e}é\r\n\tend".as_bytes();
        let mut log = log.to_vec();
        log.extend_from_slice(b"\xff\xc3(\xe2\x82");
        let whole = {
            let mut sanitizer = LogSanitizer::default();
            sanitizer.feed(&log) + &sanitizer.finish()
        };
        assert_eq!(
            whole,
            "a\nb\\x1b[0m\\r\\u{202e}é\n\tend\\xff\\xc3(\\xe2\\x82"
        );
        for cut in 0..=log.len() {
            let mut sanitizer = LogSanitizer::default();
            let mut out = sanitizer.feed(&log[..cut]);
            out += &sanitizer.feed(&log[cut..]);
            out += &sanitizer.finish();
            assert_eq!(out, whole, "cut at {cut}");
        }
    }

    #[test]
    fn lines_keeps_breaks() {
        assert_eq!(lines("a\r\nb\tc\x1b"), "a\nb\tc\\x1b");
    }
}
