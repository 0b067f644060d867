//! Times and durations for people, the same in every output. Numbers are [`dunlin_shared::figures`].

use std::time::Duration;

use jiff::Timestamp;

use super::Look;

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

/// A moment in the zone of the look, to the second and with the offset of the zone, as PostgreSQL writes it:
/// `2026-11-23 13:12:43+01`.
pub(crate) fn moment(look: &Look, time: Timestamp) -> String {
    time.to_zoned_datetime(look.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:::z").to_string()
}

/// A [`moment`] of an answer; something else where there is none.
pub(crate) fn time_or(look: &Look, time: Option<&pbjson_types::Timestamp>, otherwise: &str) -> String {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .map_or_else(|| otherwise.to_owned(), |time| moment(look, time))
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

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
    fn times_have_seconds_and_their_zone() {
        let time = pbjson_types::Timestamp { seconds: 1_795_439_563, nanos: 900_000_000 };
        let utc = Look::plain(None);
        assert_eq!(time_or(&utc, Some(&time), "-"), "2026-11-23 13:12:43+00");
        assert_eq!(time_or(&utc, None, "-"), "-");
        let in_zone = |seconds| Look { zone: Offset::from_seconds(seconds).unwrap().to_time_zone(), ..utc.clone() };
        assert_eq!(time_or(&in_zone(3_600), Some(&time), "-"), "2026-11-23 14:12:43+01");
        assert_eq!(time_or(&in_zone(19_800), Some(&time), "-"), "2026-11-23 18:42:43+05:30");
    }
}
