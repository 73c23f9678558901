//! Points in time, UTC days and windows.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, in the years 0001 to 9999.
///
/// Microseconds are what PostgreSQL stores; the year range is what RFC 3339 can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text or number that is not a [`Timestamp`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a date: use ISO 8601, such as 2024-12-01, 2024-12-01T08:30:00Z or \
     2024-12-01T08:30:00+02:00 (UTC unless it carries an offset; years 0001 to 9999)"
)]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800 * MICROS_PER_SECOND);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_800 * MICROS_PER_SECOND - 1);

    /// From microseconds since the Unix epoch; `None` outside the years 0001 to 9999.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros < Self::MIN.0 || micros > Self::MAX.0 { None } else { Some(Self(micros)) }
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time so many microseconds after the Unix epoch, held inside the representable range.
    pub const fn held_inside(micros: i64) -> Self {
        Self(0).saturating_add_micros(micros)
    }

    /// This time moved by `micros`, held inside the representable range.
    pub const fn saturating_add_micros(self, micros: i64) -> Self {
        let moved = self.0.saturating_add(micros);
        if moved < Self::MIN.0 {
            Self::MIN
        } else if moved > Self::MAX.0 {
            Self::MAX
        } else {
            Self(moved)
        }
    }

    /// The latest boundary of `span_micros` (counted from the Unix epoch, so that spans of whole
    /// days fall on UTC midnights) that is not after this time. `span_micros` is at least 1.
    pub const fn floor_to(self, span_micros: i64) -> Self {
        let floored = self.0 - self.0.rem_euclid(span_micros);
        if floored < Self::MIN.0 { Self::MIN } else { Self(floored) }
    }

    /// The UTC day that holds this time.
    pub const fn day(self) -> Day {
        Day(self.0.div_euclid(MICROS_PER_DAY))
    }

    /// `YYYYMMDDTHHMMSSZ`, the form used in object names; fractions of a second are cut off.
    pub fn compact(self) -> String {
        self.to_chrono().format("%Y%m%dT%H%M%SZ").to_string()
    }

    /// Reads what [`Timestamp::compact`] prints.
    pub fn from_compact(text: &str) -> Option<Self> {
        let parsed = NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").ok()?;
        let value = Self::from_micros(parsed.and_utc().timestamp_micros())?;
        (value.compact() == text).then_some(value)
    }

    /// Whether the time falls on a whole second, which every window's end must, since names
    /// carry it to the second.
    pub const fn is_whole_second(self) -> bool {
        self.0.rem_euclid(MICROS_PER_SECOND) == 0
    }

    /// Seconds from `earlier` to this time, negative when `earlier` is later.
    pub const fn seconds_since(self, earlier: Self) -> i64 {
        (self.0 - earlier.0).div_euclid(MICROS_PER_SECOND)
    }

    /// As a `chrono` value, for adapters whose drivers speak it.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// From a `chrono` value, cut to microseconds; `None` outside the years 0001 to 9999.
    pub fn from_chrono(value: DateTime<Utc>) -> Option<Self> {
        Self::from_micros(value.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_chrono().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTimestamp(text.to_owned());
        let text = text.trim();
        let utc = if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            date.and_time(chrono::NaiveTime::MIN).and_utc()
        } else if let Ok(zoned) = DateTime::parse_from_rfc3339(text) {
            zoned.to_utc()
        } else if let Some(zoned) = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"]
            .iter()
            .find_map(|form| DateTime::parse_from_str(text, form).ok())
        {
            zoned.to_utc()
        } else {
            ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
                .iter()
                .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
                .ok_or_else(invalid)?
                .and_utc()
        };
        Self::from_chrono(utc).ok_or_else(invalid)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A UTC calendar day. Prints as `YYYYMMDD`, the form that shard names begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The first instant of the day.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 * MICROS_PER_DAY)
    }

    /// Whether `time` falls on this day.
    pub const fn contains(self, time: Timestamp) -> bool {
        time.day().0 == self.0
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start().to_chrono().format("%Y%m%d"))
    }
}

/// The half-open stretch `(start, end]` of `created_at`, with `start < end` and `end` on a whole
/// second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct Window {
    start: Timestamp,
    end: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Bounds {
    start: Timestamp,
    end: Timestamp,
}

/// Bounds that are not a [`Window`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "({start}, {end}] is not a window: the start must lie before the end, the end on a whole second"
)]
pub struct InvalidWindow {
    start: Timestamp,
    end: Timestamp,
}

impl Window {
    /// The window `(start, end]`.
    ///
    /// # Errors
    /// When `start` is not before `end`, or `end` is not on a whole second.
    pub const fn new(start: Timestamp, end: Timestamp) -> Result<Self, InvalidWindow> {
        if start.0 < end.0 && end.is_whole_second() {
            Ok(Self { start, end })
        } else {
            Err(InvalidWindow { start, end })
        }
    }

    /// The exclusive lower bound.
    pub const fn start(self) -> Timestamp {
        self.start
    }

    /// The inclusive upper bound, which names the window.
    pub const fn end(self) -> Timestamp {
        self.end
    }

    /// Whether `created_at` lies in `(start, end]`.
    pub const fn contains(self, created_at: Timestamp) -> bool {
        self.start.0 < created_at.0 && created_at.0 <= self.end.0
    }
}

impl TryFrom<Bounds> for Window {
    type Error = InvalidWindow;
    fn try_from(bounds: Bounds) -> Result<Self, InvalidWindow> {
        Self::new(bounds.start, bounds.end)
    }
}

impl From<Window> for Bounds {
    fn from(window: Window) -> Self {
        Self { start: window.start, end: window.end }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}]", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a valid date")
    }

    #[test]
    fn dates_are_utc_unless_they_carry_an_offset() {
        let midnight = at("2024-12-01");
        for same in [
            "2024-12-01T00:00:00Z",
            "2024-12-01 00:00:00",
            "2024-12-01T00:00",
            "2024-12-01T02:00:00+02:00",
            "2024-11-30 23:00:00-01",
            "2024-12-01T00:00:00.000000+00:00",
        ] {
            assert_eq!(at(same), midnight, "{same}");
        }
        assert_eq!(at("2024-12-01T00:00:00.5Z").to_string(), "2024-12-01T00:00:00.500Z");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in ["", "yesterday", "2024-13-01", "2024-02-30", "12024-01-01", "2024-12-01T25:00Z"]
        {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn compact_form_reads_back_and_sorts_by_time() {
        let (a, b) = (at("0999-12-31T23:59:59Z"), at("2024-12-01T00:00:00Z"));
        assert_eq!(b.compact(), "20241201T000000Z");
        assert!(a.compact() < b.compact());
        assert_eq!(Timestamp::from_compact(&a.compact()), Some(a));
        assert_eq!(Timestamp::from_compact("20241201T000000"), None);
    }

    #[test]
    fn midnight_belongs_to_the_window_it_ends_and_to_the_day_it_begins() {
        let window = Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window");
        assert!(window.contains(at("2024-12-02")));
        assert!(!window.contains(at("2024-12-01")));
        assert_eq!(at("2024-12-02").day().to_string(), "20241202");
        assert_eq!(at("1969-12-31T23:59:59.999999Z").day().to_string(), "19691231");
    }

    #[test]
    fn floor_is_a_utc_boundary_also_before_the_epoch() {
        let day = MICROS_PER_DAY;
        assert_eq!(at("1969-12-31T12:00:00Z").floor_to(day), at("1969-12-31"));
        assert_eq!(at("2024-12-01").floor_to(day), at("2024-12-01"));
    }
}
