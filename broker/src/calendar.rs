//! When schedules tick: cron expressions in time zones, and `@every`.
//!
//! Pure: the same expression, zone and time give the same tick. Summer time is croner's and Vixie
//! cron's; the proto file of the service says it.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use crate::queue::state::Calendar;

/// The calendar of schedules.
pub const CALENDAR: Calendar = Calendar { after, until };

/// What `@every` may say.
const EVERY_MS_MIN: u64 = 1_000;
const EVERY_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1_000;

/// Whether this is an expression that ticks.
///
/// # Errors
/// What is wrong, for people.
pub fn check(cron: &str, zone: &str) -> Result<(), String> {
    match every_ms(cron) {
        Some(every) => every.map(drop),
        None => {
            parse(cron)?;
            // The thirtieth of February, say.
            match after(cron, zone, 0) {
                Some(_) => Ok(()),
                None => Err("it never ticks".to_owned()),
            }
        }
    }
}

/// Whether this names a time zone; nothing is UTC.
///
/// # Errors
/// What is wrong, for people.
pub fn check_zone(zone: &str) -> Result<(), String> {
    time_zone(zone)
        .map(drop)
        .ok_or_else(|| format!("\"{zone}\" is no time zone that is known here"))
}

/// The first tick after a time.
fn after(cron: &str, zone: &str, ms: u64) -> Option<u64> {
    match every_ms(cron) {
        Some(every) => {
            let every = every.ok()?;
            (ms / every).checked_add(1)?.checked_mul(every)
        }
        None => {
            let next = parse(cron).ok()?.find_next_occurrence(&zoned(zone, ms)?, false).ok()?;
            millis(&next).filter(|next_ms| ms < *next_ms)
        }
    }
}

/// The last tick at or before a time.
fn until(cron: &str, zone: &str, ms: u64) -> Option<u64> {
    match every_ms(cron) {
        Some(every) => {
            let every = every.ok()?;
            Some(ms / every * every)
        }
        None => {
            // Ticks are at whole seconds.
            let from = zoned(zone, ms - ms % 1_000)?;
            let last = parse(cron).ok()?.find_previous_occurrence(&from, true).ok()?;
            millis(&last).filter(|last_ms| *last_ms <= ms)
        }
    }
}

/// What `@every` says; `None` where it is another expression.
fn every_ms(cron: &str) -> Option<Result<u64, String>> {
    let text = cron.strip_prefix("@every ")?;
    let duration = humantime::parse_duration(text.trim()).map_err(|error| error.to_string());
    Some(duration.and_then(|duration| {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let is_whole = duration == Duration::from_secs(duration.as_secs());
        if is_whole && (EVERY_MS_MIN..=EVERY_MS_MAX).contains(&ms) {
            Ok(ms)
        } else {
            Err("@every takes whole seconds, 1 s to 365 days".to_owned())
        }
    }))
}

fn parse(cron: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(cron).map_err(|error| match bad_field(&parser, cron) {
        Some(field) => format!("{field}: {error}"),
        None => error.to_string(),
    })
}

/// The fields of an expression with seconds, and what each of them takes.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of week", "0 to 7, or SUN to SAT"),
];

/// The first field that is wrong by itself, which the parser does not tell.
fn bad_field(parser: &CronParser, cron: &str) -> Option<String> {
    let fields: Vec<&str> = cron.split_whitespace().collect();
    // Without the seconds, or with them.
    let names = FIELDS.get(FIELDS.len().checked_sub(fields.len())?..).filter(|it| 5 <= it.len())?;
    let is_bad = |at: usize| {
        let mut alone = vec!["*"; fields.len()];
        alone[at] = fields[at];
        parser.parse(&alone.join(" ")).is_err()
    };
    let at = (0..fields.len()).find(|at| is_bad(*at))?;
    let (name, range) = names[at];
    Some(format!("the {name} \"{}\" is not of {range}", fields[at]))
}

fn zoned(zone: &str, ms: u64) -> Option<Zoned> {
    let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(time.to_zoned(time_zone(zone)?))
}

/// By the database in this program: the same on every machine.
fn time_zone(zone: &str) -> Option<TimeZone> {
    match zone {
        "" | "UTC" => Some(TimeZone::UTC),
        name => TimeZoneDatabase::bundled().get(name).ok(),
    }
}

fn millis(time: &Zoned) -> Option<u64> {
    u64::try_from(time.timestamp().as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(Timestamp::from_str(text).unwrap().as_millisecond()).unwrap()
    }

    fn ticks(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        check(cron, zone).unwrap();
        let following = |at: &u64| after(cron, zone, *at);
        let ticks = std::iter::successors(Some(ms(from)), following).skip(1).take(count);
        let text = |at: u64| Timestamp::from_millisecond(at.cast_signed()).unwrap().to_string();
        ticks.map(text).collect()
    }

    #[test]
    fn a_cron_expression_ticks_in_its_time_zone() {
        let berlin = ticks("30 3 * * 1-5", "Europe/Berlin", "2026-11-20T00:00:00Z", 2);
        assert_eq!(berlin, ["2026-11-20T02:30:00Z", "2026-11-23T02:30:00Z"]);
        let seconds = ticks("*/20 * * * * *", "", "2026-11-20T00:00:05.5Z", 3);
        assert_eq!(
            seconds,
            ["2026-11-20T00:00:20Z", "2026-11-20T00:00:40Z", "2026-11-20T00:01:00Z"]
        );
        assert_eq!(ticks("@daily", "", "2026-11-20T12:00:00Z", 1), ["2026-11-21T00:00:00Z"]);
    }

    #[test]
    fn the_hour_that_is_skipped_and_the_one_that_comes_twice() {
        // On 2026-03-29 there is no 02:30 in Berlin, on 2026-10-25 there are two.
        let spring = ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let half_hours = ticks("0,30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4);
        assert_eq!(
            half_hours,
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ]
        );
    }

    #[test]
    fn every_so_often_is_counted_from_1970() {
        let every = ticks("@every 1h30m", "Asia/Tokyo", "1970-01-01T01:00:00Z", 2);
        assert_eq!(every, ["1970-01-01T01:30:00Z", "1970-01-01T03:00:00Z"]);
        assert_eq!(until("@every 10s", "", 29_999), Some(20_000));
        assert_eq!(until("@every 10s", "", 30_000), Some(30_000));
    }

    #[test]
    fn the_last_tick_is_the_one_before_the_next() {
        let at = ms("2026-11-20T12:34:56.789Z");
        for cron in ["*/7 * * * *", "0 0 1 * *", "56 34 12 * * *", "* * * * * *"] {
            let last = until(cron, "Europe/Berlin", at).unwrap();
            let next = after(cron, "Europe/Berlin", at).unwrap();
            assert!(last <= at && at < next, "{cron}: {last} {next}");
            assert_eq!(after(cron, "Europe/Berlin", last), Some(next), "{cron}");
            assert_eq!(until(cron, "Europe/Berlin", last), Some(last), "{cron}");
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named_with_what_it_takes() {
        for (cron, told) in [
            ("99 * * * *", "the minute \"99\" is not of 0 to 59"),
            ("0 24 * * *", "the hour \"24\" is not of 0 to 23"),
            ("61 0 0 * * *", "the second \"61\" is not of 0 to 59"),
            ("0 0 * * 9", "the day of week \"9\" is not of 0 to 7"),
        ] {
            let refused = check(cron, "").expect_err(cron);
            assert!(refused.starts_with(told), "{refused}");
        }
        assert!(!check("* * *", "").expect_err("two are missing").contains("is not of"));
    }

    #[test]
    fn what_never_ticks_is_refused() {
        for cron in [
            "",
            "* * *",
            "61 * * * *",
            "@every",
            "@every 0s",
            "@every 1500ms",
            "@every 2y",
            "@reboot",
            "0 0 30 2 *",
        ] {
            assert!(check(cron, "").is_err(), "{cron}");
        }
        assert!(check_zone("Europe/Atlantis").is_err());
        assert!(check_zone("Europe/Berlin").is_ok());
    }
}
