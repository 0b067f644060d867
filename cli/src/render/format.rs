//! Figures and times for people.

use std::time::Duration;

use jiff::Timestamp;

use super::Look;

/// A number with separators: `1,234,567`.
pub(crate) fn count(number: impl Into<i64>) -> String {
    let number: i64 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A duration in its two largest units: `350ms`, `4.2s`, `42s`, `1m 4s`, `2h 3m`, `1d 4h`.
pub(crate) fn duration(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0 => format!("{}ms", time.as_millis()),
        1..=9 => format!("{whole}.{}s", time.subsec_millis() / 100),
        10..=59 => format!("{whole}s"),
        60..=3_599 => format!("{}m {}s", whole / 60, whole % 60),
        3_600..=86_399 => format!("{}h {}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d {}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// A duration in whole seconds at least, for what is only an estimate: `<1s`, `42s`, `1m 4s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => "<1s".to_owned(),
        whole @ 1..=59 => format!("{whole}s"),
        _ => duration(time),
    }
}

/// A time in the zone of the look, to the second: `2026-11-23 13:12:43`; something else where there is none.
pub(crate) fn time_or(look: &Look, time: Option<&pbjson_types::Timestamp>, otherwise: &str) -> String {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()).map_or_else(
        || otherwise.to_owned(),
        |time| time.to_zoned_datetime(look.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(-1_234), "-1,234");
    }

    #[test]
    fn durations_are_short() {
        let text = |millis| duration(Duration::from_millis(millis));
        assert_eq!(text(350), "350ms");
        assert_eq!(text(4_250), "4.2s");
        assert_eq!(text(42_900), "42s");
        assert_eq!(text(64_000), "1m 4s");
        assert_eq!(text(7_380_000), "2h 3m");
        assert_eq!(text(100_800_000), "1d 4h");
    }

    #[test]
    fn estimates_have_no_fractions() {
        let text = |millis| seconds(Duration::from_millis(millis));
        assert_eq!(text(200), "<1s");
        assert_eq!(text(4_250), "4s");
        assert_eq!(text(10_000), "10s");
        assert_eq!(text(42_900), "42s");
        assert_eq!(text(64_000), "1m 4s");
    }

    #[test]
    fn times_have_seconds_and_no_zone() {
        let time = pbjson_types::Timestamp { seconds: 1_795_439_563, nanos: 900_000_000 };
        assert_eq!(time_or(&Look::plain(None), Some(&time), "-"), "2026-11-23 13:12:43");
        assert_eq!(time_or(&Look::plain(None), None, "-"), "-");
    }
}
