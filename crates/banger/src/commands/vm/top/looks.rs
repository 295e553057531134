//! How `vm top` draws: colours if the terminal may have them, blocks and lines if its locale has
//! their characters, else what ASCII offers.

use std::env;

/// Shares from which a picture is drawn in yellow, and in red.
const BUSY: f64 = 0.6;
const FULL: f64 = 0.85;

/// What a graph is made of, from nothing to all.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SIGNS: [char; 9] = [' ', '.', '.', ':', ':', '|', '|', '#', '#'];

/// What the terminal can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    is_styled: bool,
    is_unicode: bool,
}

impl Looks {
    /// Letters only.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self {
        is_styled: false,
        is_unicode: false,
    };

    /// Those of this terminal, by its locale.
    pub(super) fn of_terminal(is_styled: bool) -> Self {
        let said = ["LC_ALL", "LC_CTYPE", "LANG"].map(|name| env::var(name).unwrap_or_default());
        let locale = said.iter().find(|value| !value.is_empty());
        let is_utf8 = |locale: &String| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        };
        Self {
            is_styled,
            is_unicode: locale.is_some_and(is_utf8),
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.styled("1", text)
    }

    pub(super) fn inverse(self, text: &str) -> String {
        self.styled("7", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.styled("2", text)
    }

    /// The marks of a column that is sorted, the largest or the smallest first.
    pub(super) fn down(self) -> &'static str {
        if self.is_unicode { "▼" } else { "*" }
    }

    pub(super) fn up(self) -> &'static str {
        if self.is_unicode { "▲" } else { "^" }
    }

    /// Shares over time, the newest at the right end of `width` characters.
    pub(super) fn graph(self, shares: impl Iterator<Item = f64>, width: usize) -> String {
        let marks = if self.is_unicode { BLOCKS } else { SIGNS };
        let drawn: Vec<String> = shares
            .map(|share| {
                let mark = marks[steps(share, marks.len() - 1)];
                self.coloured(share, &mark.to_string())
            })
            .collect();
        let missing = width.saturating_sub(drawn.len());
        format!("{}{}", " ".repeat(missing), drawn.concat())
    }

    /// A share as a bar of `width` characters.
    pub(super) fn bar(self, share: f64, width: usize) -> String {
        if !self.is_unicode {
            let inner = width.saturating_sub(2);
            let full = steps(share, inner);
            let bar = format!("{}{}", "|".repeat(full), " ".repeat(inner - full));
            return format!("[{}]", self.coloured(share, &bar));
        }
        let full = steps(share, width);
        let rest = "─".repeat(width - full);
        let bar = self.coloured(share, &"━".repeat(full));
        format!("{bar}{}", self.faint(&rest))
    }

    fn coloured(self, share: f64, text: &str) -> String {
        let colour = match share {
            share if share >= FULL => "31",
            share if share >= BUSY => "33",
            _ => "32",
        };
        self.styled(colour, text)
    }

    fn styled(self, style: &str, text: &str) -> String {
        if self.is_styled && !text.is_empty() {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// How many of `most` steps a share makes, to the nearest; anything more than nothing makes one.
fn steps(share: f64, most: usize) -> usize {
    if share <= 0.0 {
        return 0;
    }
    let whole = u32::try_from(most).map_or(f64::MAX, f64::from);
    let passed = (1..most).take_while(|step| {
        let step = u32::try_from(*step).map_or(f64::MAX, f64::from);
        share * whole >= step + 0.5
    });
    1 + passed.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RICH: Looks = Looks {
        is_styled: false,
        is_unicode: true,
    };

    #[test]
    fn shares_are_drawn_to_the_nearest_step() {
        assert_eq!(
            [0.0, 0.01, 0.49, 1.0, 7.0].map(|share| steps(share, 8)),
            [0, 1, 4, 8, 8]
        );
        let shares = [0.0, 0.13, 0.5, 1.0];
        assert_eq!(RICH.graph(shares.into_iter(), 6), "   ▁▄█");
        assert_eq!(Looks::PLAIN.graph(shares.into_iter(), 6), "   .:#");
        assert_eq!(RICH.bar(0.5, 4), "━━──");
        assert_eq!(Looks::PLAIN.bar(2.0, 6), "[||||]");
    }

    #[test]
    fn colours_say_how_full_it_is() {
        let looks = Looks {
            is_styled: true,
            is_unicode: true,
        };
        assert_eq!(
            looks.graph([0.9].into_iter(), 1),
            "\x1b[31m█\x1b[0m".replace('█', "▇")
        );
        assert_eq!(looks.bar(0.1, 2), "\x1b[32m━\x1b[0m\x1b[2m─\x1b[0m");
    }
}
