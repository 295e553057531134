//! Durations, written as people write them: `90s`, `5m`, `1h30m`, `250ms`; a bare number is seconds.

use banger_ids::InvalidName;
use std::time::Duration;

/// Parses a duration made of numbers with the units `ms s m h d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidName> {
    let refuse = |rule| InvalidName::new("duration", text, rule);
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let number: u32 = number
            .parse()
            .map_err(|_| refuse("is not of the form 90s, 5m, 1h30m or 250ms"))?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(refuse("has a unit other than ms, s, m, h or d")),
        };
        total = unit
            .checked_mul(number)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| refuse("is too long"))?;
        rest = tail;
    }
    if text.is_empty() {
        return Err(refuse("is empty"));
    }
    Ok(total)
}

/// A duration for people: `0.35s`, `12.4s`, `3m05s`, `2h10m`, `5d`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.2}s", duration.as_secs_f64()),
        10..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        for (text, ms) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in ["", "s", "-1", "1x", "1.5s", "5m5", "99999999999s", "m5"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn formats_briefly() {
        for (ms, text) in [
            (350, "0.35s"),
            (12_400, "12.4s"),
            (185_000, "3m05s"),
            (7_800_000, "2h10m"),
            (432_000_000, "5d"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
    }
}
