//! Several runs as one figure: median, and how far they lie apart.

use serde::Serialize;

/// Median, smallest and largest of several runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

impl Spread {
    /// Of these runs; all zero without any.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let median = match values.len() % 2 {
            0 => f64::midpoint(at(middle - 1), at(middle)),
            _ => at(middle),
        };
        Self { median, min: *min, max: *max, runs: values.len() }
    }

    /// Of pairs of runs that were taken one after the other: the first to the second.
    pub(crate) fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self::of(pairs.into_iter().map(|(value, reference)| value / reference))
    }

    /// `0.71 (0.69–0.75, 5 runs)`; one run is its value alone.
    pub(crate) fn text(&self) -> String {
        let median = readable(self.median);
        match self.runs {
            0 | 1 => median,
            runs => {
                format!("{median} ({}–{}, {runs} runs)", readable(self.min), readable(self.max))
            }
        }
    }
}

/// A figure with as many digits as say something.
pub(crate) fn readable(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        it if it < 10.0 => 3,
        it if it < 100.0 => 2,
        it if it < 1_000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |it| it);
    let rest = rest.trim_end_matches('0');
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |it| ("-", it));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let dot = if rest.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{dot}{rest}")
}

/// Cut to what is worth printing in JSON.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_two() {
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Spread { median: 2.0, min: 1.0, max: 3.0, runs: 3 }
        );
        assert!((Spread::of([4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let spread = Spread::of_ratios([(1.0, 2.0), (3.0, 2.0), (1.0, 1.0)]);
        assert_eq!((spread.min, spread.median, spread.max), (0.5, 1.0, 1.5));
    }

    #[test]
    fn figures_are_for_people() {
        let shown = [0.0, 0.5012, 0.7, 12.3456, 123.45, 1_234.5, 9_876_543.0, -1_000.0];
        let shown: Vec<String> = shown.into_iter().map(readable).collect();
        assert_eq!(shown, ["0", "0.501", "0.7", "12.35", "123.5", "1,234", "9,876,543", "-1,000"]);
    }
}
