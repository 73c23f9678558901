//! Where the next window lies. Pure.

use protocol::{Timestamp, Window};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Whether open transactions count: with a lag of days nothing is written that late.
pub const fn waits_for_transactions(lag_days: u32) -> bool {
    lag_days < 1
}

/// Up to where windows may reach: `lag_days` before the earlier of the two clocks, and, where a
/// transaction is open that could still write below that, before its beginning; on a boundary of
/// `span_micros`.
pub fn cutoff(
    catalog_clock: Timestamp,
    ledger_clock: Timestamp,
    lag_days: u32,
    oldest_transaction: Option<Timestamp>,
    span_micros: i64,
) -> Timestamp {
    let now = catalog_clock.min(ledger_clock);
    let lagged = now.saturating_add_micros(-i64::from(lag_days) * MICROS_PER_DAY);
    let settled = match oldest_transaction {
        // A row that a transaction writes carries, at the earliest that we rely on, the time at
        // which the transaction began.
        Some(began) if waits_for_transactions(lag_days) => lagged.min(began),
        _ => lagged,
    };
    settled.floor_to(span_micros)
}

/// What is known about the stretch after the frontier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// The first window after the frontier that has a certificate already.
    pub certified: Option<Window>,
    /// The smallest created_at after the frontier, if somebody looked; `Some(None)` when there is
    /// no row at all.
    pub oldest_row: Option<Option<Timestamp>>,
}

/// What to do with the next window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing below the cutoff is left.
    Nothing,
    /// A window that was never settled.
    Fresh(Window),
    /// A certified window, which the watermark was moved back over: it is to be verified and
    /// reconciled.
    Again(Window),
}

/// The next window after `frontier` and up to `cutoff`. It ends on the next boundary of
/// `span_micros`, or further on where a stretch without rows can be crossed in one step; it never
/// reaches into a certified window.
pub fn next_window(frontier: Timestamp, cutoff: Timestamp, span_micros: i64, ahead: Ahead) -> Next {
    if let Some(certified) = ahead.certified
        && certified.start() <= frontier
        && frontier < certified.end()
    {
        return if certified.end() <= cutoff { Next::Again(certified) } else { Next::Nothing };
    }
    let boundary = frontier.floor_to(span_micros).saturating_add_micros(span_micros);
    let before_rows = match ahead.oldest_row {
        None => boundary,
        Some(None) => cutoff,
        Some(Some(oldest)) => oldest.saturating_add_micros(-1).floor_to(span_micros),
    };
    let end = boundary.max(before_rows).min(cutoff);
    let end = ahead.certified.map_or(end, |certified| end.min(certified.start()));
    // A first watermark that was adopted may stand on a fraction of a second. Windows do not, so
    // that what is made below it later ends where this one starts.
    let start = frontier.floor_to(1_000_000);
    if end <= frontier {
        return Next::Nothing;
    }
    Window::new(start, end).map_or(Next::Nothing, Next::Fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = MICROS_PER_DAY;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn window(start: &str, end: &str) -> Window {
        Window::new(at(start), at(end)).expect("a window")
    }

    #[test]
    fn the_cutoff_takes_the_earlier_clock_and_falls_on_a_boundary() {
        let cut = |lag, transaction| {
            cutoff(at("2024-12-10T05:00"), at("2024-12-10T04:00"), lag, transaction, DAY)
        };
        assert_eq!(cut(7, None), at("2024-12-03"));
        assert_eq!(cut(7, Some(at("2024-12-01"))), at("2024-12-03"));
        assert_eq!(cut(0, None), at("2024-12-10"));
        assert_eq!(cut(0, Some(at("2024-12-09T10:00"))), at("2024-12-09"));
    }

    #[test]
    fn windows_end_on_boundaries_whatever_the_frontier() {
        let next =
            |frontier: &str| next_window(at(frontier), at("2024-12-09"), DAY, Ahead::default());
        assert_eq!(next("2024-12-01"), Next::Fresh(window("2024-12-01", "2024-12-02")));
        assert_eq!(next("2024-12-01T13:00"), Next::Fresh(window("2024-12-01T13:00", "2024-12-02")));
        assert_eq!(next("2024-12-09"), Next::Nothing);
        assert_eq!(next("2024-12-10"), Next::Nothing);
    }

    #[test]
    fn an_empty_stretch_is_crossed_in_one_step_and_no_row_with_it() {
        let next = |oldest: Option<&str>| {
            let ahead = Ahead { oldest_row: Some(oldest.map(at)), certified: None };
            next_window(at("2024-01-01"), at("2024-12-09"), DAY, ahead)
        };
        assert_eq!(next(None), Next::Fresh(window("2024-01-01", "2024-12-09")));
        assert_eq!(next(Some("2024-06-05T01:00")), Next::Fresh(window("2024-01-01", "2024-06-05")));
        // A row at midnight belongs to the window that ends there, which is not this one.
        assert_eq!(next(Some("2024-06-05")), Next::Fresh(window("2024-01-01", "2024-06-04")));
        assert_eq!(next(Some("2024-01-01T01:00")), Next::Fresh(window("2024-01-01", "2024-01-02")));
        assert_eq!(next(Some("2025-03-01")), Next::Fresh(window("2024-01-01", "2024-12-09")));
    }

    #[test]
    fn a_window_starts_on_a_whole_second_whatever_the_watermark() {
        let frontier = at("2024-12-01T10:20:30.5");
        let next = next_window(frontier, at("2024-12-09"), DAY, Ahead::default());
        assert_eq!(next, Next::Fresh(window("2024-12-01T10:20:30", "2024-12-02")));
    }

    #[test]
    fn certified_windows_are_met_whole() {
        let certified = window("2024-12-03", "2024-12-04");
        let ahead = Ahead { certified: Some(certified), oldest_row: None };
        let next = |frontier: &str| next_window(at(frontier), at("2024-12-09"), DAY, ahead);
        assert_eq!(next("2024-12-03"), Next::Again(certified));
        assert_eq!(next("2024-12-03T05:00"), Next::Again(certified));
        assert_eq!(next("2024-12-02T05:00"), Next::Fresh(window("2024-12-02T05:00", "2024-12-03")));
        let odd = Ahead {
            certified: Some(window("2024-12-01T12:00", "2024-12-02")),
            oldest_row: Some(None),
        };
        assert_eq!(
            next_window(at("2024-11-01"), at("2024-12-09"), DAY, odd),
            Next::Fresh(window("2024-11-01", "2024-12-01T12:00"))
        );
    }
}
