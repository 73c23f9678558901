//! The form in which a table's `created_at` holds times: texts of one pattern, or integers of one
//! unit.
//!
//! SQLite has no type for times. Texts of one pattern, in one zone, sort as the times do, and so a
//! bound written in the same form selects by time, and by index. Pure: no I/O.

use std::fmt;

use chrono::NaiveDate;
use protocol::Timestamp;
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// The suffixes that mean UTC. Another offset could be sorted by, but names of windows, bounds and
/// rows would differ from what a person sees in the table.
const ZONES: [&str; 4] = ["", "Z", "+00:00", "+00"];
const MAX_FRACTION_DIGITS: u8 = 6;
/// Days from 0001-01-01 to 1970-01-01, plus one, as `chrono` counts them.
const UNIX_EPOCH_FROM_CE: i64 = 719_163;

/// How a table's `created_at` is to be read, compared and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// `2024-12-01`.
    Date,
    /// `2024-12-01T10:20:30.123Z` and its like.
    DateTime(DateTimeForm),
    /// A number of these since 1970.
    Integer(Unit),
}

/// A date and a time of day in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTimeForm {
    /// `T` or a space.
    separator: char,
    /// Digits after the point, up to six; without any there is no point.
    fraction_digits: u8,
    /// One of [`ZONES`].
    zone: &'static str,
}

/// What an integer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
}

impl Unit {
    pub(super) const ALL: [Self; 3] = [Self::Seconds, Self::Milliseconds, Self::Microseconds];

    const fn micros(self) -> i64 {
        match self {
            Self::Seconds => MICROS_PER_SECOND,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
        }
    }

    /// The unit that a number of this magnitude suggests.
    fn of_magnitude(magnitude: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| magnitude <= unit.largest().unsigned_abs())
    }

    /// The largest number, by magnitude, that is taken for this unit; what is larger is taken for
    /// the next. As seconds it lies in the year 5138, as milliseconds in 1973.
    pub(super) const fn largest(self) -> i64 {
        match self {
            Self::Seconds => 99_999_999_999,
            Self::Milliseconds => 99_999_999_999_999,
            Self::Microseconds => 99_999_999_999_999_999,
        }
    }
}

/// A value of `created_at`, as SQLite stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Text(String),
    Integer(i64),
}

impl From<Stored> for Value {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Text(text) => Self::Text(text),
            Stored::Integer(value) => Self::Integer(value),
        }
    }
}

impl ToSql for Stored {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Integer(value) => ValueRef::Integer(*value),
        }))
    }
}

impl TimeForm {
    /// What an empty table is taken to hold, until it holds something.
    pub(super) const OF_AN_EMPTY_TABLE: Self =
        Self::DateTime(DateTimeForm { separator: 'T', fraction_digits: 0, zone: "Z" });

    /// The form whose pattern this is: its digits are 9s, but for those of the zone.
    pub(super) fn of_pattern(pattern: &str) -> Option<Self> {
        Self::all_texts().find(|form| form.pattern() == pattern)
    }

    /// A test for values of this form: of those that it takes, [`of_pattern`](Self::of_pattern)
    /// would take none for another. A text need not be a date; zero is a number of any unit.
    pub(super) fn test(self) -> impl Fn(ValueRef<'_>) -> bool {
        let pattern = self.pattern();
        move |value| match (self, value) {
            (Self::Integer(unit), ValueRef::Integer(value)) => {
                value == 0 || Unit::of_magnitude(value.unsigned_abs()) == Some(unit)
            }
            (Self::Date | Self::DateTime(_), ValueRef::Text(text)) => {
                has_pattern(text, pattern.as_bytes())
            }
            _ => false,
        }
    }

    /// Its texts with 9 for every digit but those of the zone; of integers there is none.
    fn pattern(self) -> String {
        match self {
            Self::Date => "9999-99-99".to_owned(),
            Self::DateTime(form) => form.spell("9999-99-99", "99:99:99", ".999999"),
            Self::Integer(_) => String::new(),
        }
    }

    fn all_texts() -> impl Iterator<Item = Self> {
        let date_times = ['T', ' '].into_iter().flat_map(|separator| {
            (0..=MAX_FRACTION_DIGITS).flat_map(move |fraction_digits| {
                ZONES.map(|zone| Self::DateTime(DateTimeForm { separator, fraction_digits, zone }))
            })
        });
        std::iter::once(Self::Date).chain(date_times)
    }

    /// The latest value of this form that is not after `time`: a stored value is after `time`
    /// exactly when it is after this one.
    pub(super) fn bound(self, time: Timestamp) -> Stored {
        let micros = time.as_micros();
        match self {
            Self::Date => Stored::Text(time.to_chrono().format("%Y-%m-%d").to_string()),
            Self::Integer(unit) => Stored::Integer(micros.div_euclid(unit.micros())),
            Self::DateTime(form) => {
                let time = time.to_chrono();
                Stored::Text(form.spell(
                    &time.format("%Y-%m-%d").to_string(),
                    &time.format("%H:%M:%S").to_string(),
                    &format!(".{:06}", micros.rem_euclid(MICROS_PER_SECOND)),
                ))
            }
        }
    }

    /// The time that an integer stands for; `None` in a form of texts, and outside the years 0001
    /// to 9999.
    pub(super) fn time_of_integer(self, value: i64) -> Option<Timestamp> {
        match self {
            Self::Integer(unit) => Timestamp::from_micros(value.checked_mul(unit.micros())?),
            Self::Date | Self::DateTime(_) => None,
        }
    }

    /// The time that a text stands for; `None` when it is not of this form or no date.
    pub(super) fn time_of_text(self, text: &[u8]) -> Option<Timestamp> {
        match self {
            Self::Date if text.len() == 10 => Timestamp::from_micros(day_micros(text)?),
            Self::DateTime(form) => form.time(text),
            Self::Date | Self::Integer(_) => None,
        }
    }
}

impl DateTimeForm {
    /// Puts the parts together as this form has them; `fraction` is a point and six characters.
    fn spell(self, date: &str, time: &str, fraction: &str) -> String {
        let Self { separator, fraction_digits, zone } = self;
        let shown = if fraction_digits == 0 { 0 } else { 1 + usize::from(fraction_digits) };
        format!("{date}{separator}{time}{}{zone}", &fraction[..shown])
    }

    fn time(self, text: &[u8]) -> Option<Timestamp> {
        let digits = usize::from(self.fraction_digits);
        let fraction_at = 19;
        let zone_at = fraction_at + if digits == 0 { 0 } else { 1 + digits };
        let well_formed = text.get(zone_at..)? == self.zone.as_bytes()
            && char::from(text[10]) == self.separator
            && text[13] == b':'
            && text[16] == b':'
            && (digits == 0 || text[fraction_at] == b'.');
        if !well_formed {
            return None;
        }
        let hour = number(&text[11..13]).filter(|&hour| hour < 24)?;
        let minute = number(&text[14..16]).filter(|&minute| minute < 60)?;
        let second = number(&text[17..19]).filter(|&second| second < 60)?;
        let fraction = match digits {
            0 => 0,
            _ => {
                let scale = 10_i64.pow(u32::from(MAX_FRACTION_DIGITS - self.fraction_digits));
                number(&text[fraction_at + 1..zone_at])? * scale
            }
        };
        let of_day = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + fraction;
        Timestamp::from_micros(day_micros(text)? + of_day)
    }
}

/// Microseconds from 1970 to the day that the text begins with.
fn day_micros(text: &[u8]) -> Option<i64> {
    if text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = i32::try_from(number(&text[..4])?).ok()?;
    let month = u32::try_from(number(&text[5..7])?).ok()?;
    let day = u32::try_from(number(&text[8..10])?).ok()?;
    let date = NaiveDate::from_ymd_opt(year, month, day)?;
    let days = i64::from(chrono::Datelike::num_days_from_ce(&date)) - UNIX_EPOCH_FROM_CE;
    Some(days * MICROS_PER_DAY)
}

/// Whether a text equals the pattern, in which 9 stands for a digit.
fn has_pattern(text: &[u8], pattern: &[u8]) -> bool {
    text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(&found, wanted)| match wanted {
            b'9' => found.is_ascii_digit(),
            &wanted => found == wanted,
        })
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// For a person: `YYYY-MM-DDTHH:MM:SS.fffZ`, `seconds since 1970`.
impl fmt::Display for TimeForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Date => f.write_str("YYYY-MM-DD"),
            Self::DateTime(form) => f.write_str(&form.spell("YYYY-MM-DD", "HH:MM:SS", ".ffffff")),
            Self::Integer(unit) => write!(f, "{} since 1970", unit.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn all() -> Vec<TimeForm> {
        TimeForm::all_texts().chain(Unit::ALL.map(TimeForm::Integer)).collect()
    }

    fn read(form: TimeForm, stored: &Stored) -> Option<Timestamp> {
        match stored {
            Stored::Text(text) => form.time_of_text(text.as_bytes()),
            Stored::Integer(value) => form.time_of_integer(*value),
        }
    }

    fn text_of(pattern: &str, time: &str) -> String {
        match TimeForm::of_pattern(pattern).expect("a form").bound(at(time)) {
            Stored::Text(text) => text,
            Stored::Integer(value) => value.to_string(),
        }
    }

    #[test]
    fn a_bound_is_written_in_the_forms_own_way() {
        let time = "2024-12-01T00:00:00.123456Z";
        for (pattern, expected) in [
            ("9999-99-99", "2024-12-01"),
            ("9999-99-99 99:99:99", "2024-12-01 00:00:00"),
            ("9999-99-99T99:99:99.999Z", "2024-12-01T00:00:00.123Z"),
            ("9999-99-99 99:99:99.999999+00", "2024-12-01 00:00:00.123456+00"),
            ("9999-99-99T99:99:99.9+00:00", "2024-12-01T00:00:00.1+00:00"),
        ] {
            assert_eq!(text_of(pattern, time), expected);
        }
        assert_eq!(text_of("9999-99-99T99:99:99.999Z", "0001-01-01"), "0001-01-01T00:00:00.000Z");
        let before_1970 = TimeForm::Integer(Unit::Seconds).bound(at("1969-12-31T23:59:58.5Z"));
        assert_eq!(before_1970, Stored::Integer(-2));
    }

    #[test]
    fn other_patterns_are_no_forms() {
        for pattern in [
            "",
            "9999-99-99T99:99",
            "9999-99-99T99:99:99+02:00",
            "9999-99-99T99:99:99-00:00",
            "9999-99-99T99:99:99.9999999Z",
            "9999-99-99T99:99:99.",
            "9999-99-99Z",
            "99.99.9999",
            "9999999999",
        ] {
            assert_eq!(TimeForm::of_pattern(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn what_has_the_pattern_but_is_no_date_is_not_read() {
        let form = TimeForm::of_pattern("9999-99-99T99:99:99Z").expect("a form");
        assert!(form.time_of_text(b"2024-02-29T23:59:59Z").is_some());
        for bad in [
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-12-01T24:00:00Z",
            "2024-12-01T00:60:00Z",
            "2024-12-01T00:00:60Z",
            "0000-00-00T00:00:00Z",
            "2024-12-01 00:00:00Z",
            "2024-12-01T00:00:00",
            "2024-12-01T00:00:00ZZ",
            "2024-12-01T00.00.00Z",
            "2024/12/01T00:00:00Z",
            "x",
        ] {
            assert_eq!(form.time_of_text(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(TimeForm::Date.time_of_text(b"2024-12-1"), None);
        assert_eq!(TimeForm::Integer(Unit::Seconds).time_of_integer(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn bounds_select_by_time_in_every_form(
            first in Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(),
            apart in prop_oneof![0_i64..3_000_000, 0_i64..200_000_000_000],
        ) {
            let stored_time = Timestamp::MIN.saturating_add_micros(first - Timestamp::MIN.as_micros());
            let bound_time = stored_time.saturating_add_micros(apart);
            for form in all() {
                let stored = form.bound(stored_time);
                let held = read(form, &stored).expect("what is written can be read");
                prop_assert!(held <= stored_time);
                for bound in [bound_time, stored_time, held.saturating_add_micros(-1)] {
                    let after = match (&stored, form.bound(bound)) {
                        (Stored::Text(stored), Stored::Text(bound)) => *stored > bound,
                        (Stored::Integer(stored), Stored::Integer(bound)) => *stored > bound,
                        _ => unreachable!("one form has one kind"),
                    };
                    prop_assert_eq!(after, held > bound, "{} {}", form, bound);
                }
            }
        }
    }
}
