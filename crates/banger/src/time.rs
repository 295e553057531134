//! Times for people: ages in tables, UTC in details.

use banger_names::{format_duration, parse_duration};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago `unix_ms` was, briefly and in whole units, as `45s`, `3m`, `2h`, `5d`.
pub(crate) fn age(unix_ms: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    brief(now.saturating_sub(Duration::from_millis(unix_ms)))
}

fn brief(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        _ => format_duration(age),
    }
}

/// What `--since` says, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(pub u64);

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = parse_duration(text) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let then = now.unwrap_or_default().saturating_sub(ago);
            return Ok(Self(u64::try_from(then.as_millis()).unwrap_or(u64::MAX)));
        }
        let seconds = parse_time(text)
            .ok_or("it is neither a time as 2026-11-22T10:30:00Z nor a duration as 10m")?;
        Ok(Self(seconds.saturating_mul(1000)))
    }
}

/// Seconds since 1970 of `YYYY-MM-DD`, with `THH:MM[:SS]` and `Z` or `+HH:MM` if they are given.
fn parse_time(text: &str) -> Option<u64> {
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| is_number)
    };
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    let (time, zone) = match time.find(['Z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let mut parts = time.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |text| number(text, 2))?;
    let is_sound = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && year >= 1970
        && hour < 24
        && minute < 60
        && second <= 60
        && parts.next().is_none();
    if !is_sound {
        return None;
    }
    let east = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
            let offset = i64::try_from(offset).ok()?;
            if sign == "-" { -offset } else { offset }
        }
    };
    // The reverse of civil_from_days, below.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let local = days * 86_400 + hour * 3600 + minute * 60 + second;
    local.checked_add_signed(-east)
}

/// A time in UTC, as `2026-11-22T04:37:21Z`.
pub(crate) fn utc(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400;
    let second = unix_seconds % 86_400;
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant's civil_from_days).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second % 3600 / 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_knows_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_322_241, "2026-11-22T04:37:21Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for seconds in [0, 951_782_400, 1_795_322_241, 4_107_542_399] {
            assert_eq!(parse_time(&utc(seconds)), Some(seconds));
        }
        for (text, seconds) in [
            ("2026-11-22", Some(1_795_305_600)),
            ("2026-11-22T04:37", Some(1_795_322_220)),
            ("2026-11-22 06:37:21+02:00", Some(1_795_322_241)),
            ("2026-11-21T23:07:21-05:30", Some(1_795_322_241)),
            ("2026-13-01", None),
            ("2026-11-22T4:37", None),
            ("2026-11-22T04:37:21.5Z", None),
            ("yesterday", None),
            ("1969-12-31", None),
        ] {
            assert_eq!(parse_time(text), seconds, "{text}");
        }
        assert!("10m".parse::<Since>().is_ok());
        assert!("10 minutes".parse::<Since>().is_err());
    }

    #[test]
    fn ages_are_brief() {
        for (seconds, text) in [(5, "5s"), (200, "3m"), (7_800, "2h10m"), (432_000, "5d")] {
            assert_eq!(brief(Duration::from_secs(seconds)), text);
        }
    }
}
