//! Values of options, from their texts.

use std::time::Duration;

use backends::ledger::Override;
use protocol::FailureReason;

/// A reason, as it is stored.
pub(super) fn reason(text: &str) -> Result<FailureReason, String> {
    let all = FailureReason::ALL;
    all.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|known| known.as_str()).collect();
        format!("there is no such reason; there are {}", known.join(", "))
    })
}

/// A number above zero.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match price(text)? {
        number if number > 0.0 => Ok(number),
        _ => Err("it must be more than zero".to_owned()),
    }
}

/// A number that is not negative.
pub(super) fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("it must be a number that is not negative".to_owned()),
    }
}

/// Seconds, or a number with a unit.
fn span(text: &str) -> Result<Duration, String> {
    match text.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_no_number) => humantime::parse_duration(text).map_err(|error| {
            format!("{error}: use seconds, or a number with a unit, such as 90s, 15m or 1h")
        }),
    }
}

/// A span that is not zero.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let length = span(text)?;
    match length.is_zero() {
        true => Err("it must be more than zero".to_owned()),
        false => Ok(length),
    }
}

/// A number, or `none`.
pub(crate) fn number_or_none(text: &str) -> Result<Override<u64>, String> {
    or_none(text, |text| text.parse().map_err(|_| "use a number, or none".to_owned()))
}

/// A size in bytes, or with a unit; or `none`.
pub(crate) fn size_or_none(text: &str) -> Result<Override<u64>, String> {
    or_none(text, |text| {
        let size = text.parse::<bytesize::ByteSize>();
        size.map(|size| size.as_u64()).map_err(|_| "use bytes, such as 20MiB, or none".to_owned())
    })
}

/// A span, or `none`.
pub(crate) fn span_or_none(text: &str) -> Result<Override<Duration>, String> {
    or_none(text, span)
}

pub(super) fn text_or_none(text: &str) -> Result<Override<String>, String> {
    or_none(text, |text| Ok(text.to_owned()))
}

fn or_none<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Override<T>, String> {
    match text.trim() {
        none if none.eq_ignore_ascii_case("none") => Ok(Override::Off),
        other => parse(other).map(Override::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_seconds_or_has_a_unit() {
        assert_eq!(interval("3600"), Ok(Duration::from_secs(3_600)));
        assert_eq!(interval("1h"), interval("3600"));
        assert_eq!(interval("1m 30s"), Ok(Duration::from_secs(90)));
        for bad in ["0", "0s", "soon", "-1", ""] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
