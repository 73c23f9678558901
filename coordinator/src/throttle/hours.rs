//! Hours of the week, such as `Mon-Fri 08:00-18:00 +01:00`. Pure.

use std::fmt;
use std::str::FromStr;

use protocol::Timestamp;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: usize = 24 * 60;
const WEEK: usize = 7 * DAY;
/// Where 1970-01-01T00:00Z, a Thursday, lies in a week that begins on Monday, in minutes.
const EPOCH: i64 = 3 * 24 * 60;
const MINUTE: i64 = 60_000_000;
/// The largest offset from UTC, in minutes.
const FARTHEST: i64 = 14 * 60;
/// What a mistake is answered with.
const RULE: &str = "use days and hours, several with commas between, then the offset from UTC, such \
                    as `Mon-Fri 08:00-18:00, Sat 08:00-12:00 +01:00`; without days every day, \
                    without an offset UTC";

/// Stretches of every week, in a fixed offset from UTC: summer time is not known of.
#[derive(Clone, PartialEq, Eq)]
pub struct Hours {
    /// By the minute of the week, from Monday 00:00 in the offset.
    within: Vec<bool>,
    /// In minutes, east of Greenwich.
    offset: i64,
    text: String,
}

impl Hours {
    /// When the stretch is over that this time lies in; `None` where it lies in none.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let minutes = now.as_micros().div_euclid(MINUTE);
        let local = (minutes + self.offset + EPOCH).rem_euclid(7 * 24 * 60);
        let at = usize::try_from(local).unwrap_or_default();
        if !self.within[at] {
            return None;
        }
        // Not every minute of the week is within: that is refused.
        let more = (1..=WEEK).find(|more| !self.within[(at + more) % WEEK]).unwrap_or(WEEK);
        let more = i64::try_from(more).unwrap_or_default();
        Some(Timestamp::held_inside((minutes + more).saturating_mul(MINUTE)))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hours({})", self.text)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (stretches, offset) = match text.rsplit_once(char::is_whitespace) {
            Some((before, last)) if !last.contains('-') || last.starts_with('-') => {
                (before.trim(), offset(last).ok_or_else(|| wrong(last))?)
            }
            _ => (text, 0),
        };
        let mut within = vec![false; WEEK];
        for stretch in stretches.split(',').map(str::trim) {
            for minute in minutes(stretch).ok_or_else(|| wrong(stretch))? {
                within[minute % WEEK] = true;
            }
        }
        if within.iter().all(|within| *within) {
            return Err("these are all hours of the week, and nothing would ever be begun; pause \
                        instead"
                .to_owned());
        }
        let zone = match offset {
            0 => "UTC".to_owned(),
            offset => {
                let sign = if offset < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60)
            }
        };
        Ok(Self { within, offset, text: format!("{stretches} {zone}") })
    }
}

fn wrong(part: &str) -> String {
    format!("`{part}` is not understood: {RULE}")
}

/// Minutes of the week, which may run into the next one.
fn minutes(stretch: &str) -> Option<impl Iterator<Item = usize>> {
    let (days, hours) = match stretch.rsplit_once(char::is_whitespace) {
        Some((days, hours)) => (days_of(days.trim())?, hours),
        None => ((0..7).collect(), stretch),
    };
    let (from, to) = hours.split_once('-')?;
    let (from, to) = (clock(from)?, clock(to)?);
    if from >= DAY || from == to {
        return None;
    }
    let length = if to > from { to - from } else { DAY - from + to };
    Some(days.into_iter().flat_map(move |day| {
        let start = day * DAY + from;
        start..start + length
    }))
}

fn days_of(text: &str) -> Option<Vec<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let day = |text: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(text.trim()));
    let (first, last) = (day(first)?, day(last)?);
    let number = (last + 7 - first) % 7 + 1;
    Some((0..number).map(|more| (first + more) % 7).collect())
}

/// `HH:MM` in minutes, up to 24:00.
fn clock(text: &str) -> Option<usize> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str, most: usize| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number: &usize| plain && *number <= most)
    };
    let minutes = number(hours, 24)? * 60 + number(minutes, 59)?;
    (minutes <= DAY).then_some(minutes)
}

/// `UTC`, `Z` or `+HH:MM`, in minutes.
fn offset(text: &str) -> Option<i64> {
    if ["utc", "z"].contains(&text.to_ascii_lowercase().as_str()) {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let minutes = i64::try_from(clock(rest)?).ok().filter(|minutes| *minutes <= FARTHEST)?;
    Some(sign * minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(hours: &str, now: &str) -> Option<String> {
        let hours: Hours = hours.parse().unwrap_or_else(|why| panic!("{hours}: {why}"));
        hours.until(now.parse().expect("a date")).map(|until| until.to_string())
    }

    #[test]
    fn hours_begin_and_end_to_the_minute() {
        let working = "Mon-Fri 08:00-18:00";
        // 2024-12-02 is a Monday.
        assert_eq!(until(working, "2024-12-02T07:59:59.999999"), None);
        let end = Some("2024-12-02T18:00:00Z".to_owned());
        assert_eq!(until(working, "2024-12-02T08:00"), end);
        assert_eq!(until(working, "2024-12-02T17:59:59"), end);
        assert_eq!(until(working, "2024-12-02T18:00"), None);
        assert_eq!(until(working, "2024-12-06T12:00"), Some("2024-12-06T18:00:00Z".to_owned()));
        assert_eq!(until(working, "2024-12-07T12:00"), None, "a Saturday");
        assert_eq!(until(working, "1969-12-31T12:00"), Some("1969-12-31T18:00:00Z".to_owned()));
    }

    #[test]
    fn hours_run_over_midnight_and_the_week() {
        assert_eq!(until("22:00-06:00", "2024-12-01T23:00"), Some("2024-12-02T06:00:00Z".into()));
        assert_eq!(until("22:00-06:00", "2024-12-02T05:59"), Some("2024-12-02T06:00:00Z".into()));
        assert_eq!(until("22:00-06:00", "2024-12-02T06:00"), None);
        let weekend = "Fri-Mon 20:00-24:00, Sat-Sun 00:00-24:00, Mon 00:00-06:00 UTC";
        assert_eq!(until(weekend, "2024-12-06T21:00"), Some("2024-12-09T06:00:00Z".into()));
        assert_eq!(
            until("Sun 20:00-04:00", "2024-12-09T03:00"),
            Some("2024-12-09T04:00:00Z".into())
        );
    }

    #[test]
    fn an_offset_moves_them() {
        let berlin = "Mon-Fri 08:00-18:00 +01:00";
        assert_eq!(until(berlin, "2024-12-02T06:59"), None);
        assert_eq!(until(berlin, "2024-12-02T07:00"), Some("2024-12-02T17:00:00Z".into()));
        // There it is still Sunday.
        assert_eq!(
            until("Sun 00:00-23:59 -10:30", "2024-12-02T10:00"),
            Some("2024-12-02T10:29:00Z".into())
        );
        let told: Hours = " mon-fri 08:00-18:00   -03:30 ".parse().expect("hours");
        assert_eq!(told.to_string(), "mon-fri 08:00-18:00 -03:30");
        let again: Hours = told.to_string().parse().expect("what it says of itself");
        assert_eq!(again, told);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "Mon-Fri",
            "08:00",
            "08:00-08:00",
            "24:00-02:00",
            "8:00-18:00",
            "08:00-18:60",
            "Mo 08:00-18:00",
            "Mon-Fri 08:00-18:00 CET",
            "Mon-Fri 08:00-18:00 +15:00",
            "Mon-Fri 08:00-18:00,",
            "08:00-18:00; 19:00-20:00",
        ] {
            let why = text.parse::<Hours>().expect_err(text);
            assert!(why.contains("use days and hours"), "{text}: {why}");
        }
        let why = "00:00-24:00".parse::<Hours>().expect_err("the whole week");
        assert!(why.contains("pause instead"), "{why}");
    }
}
