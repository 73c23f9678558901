//! Which certificates of skips are believed. Pure.
//!
//! `des adjust` writes such a certificate before the ledger is told: of a command that died between
//! the two, it says that something was skipped that never was. Whether it happened shows in what
//! came later: windows begin where a skip ends, and none begins inside it.

use protocol::Timestamp;
use serde::Serialize;

use crate::passes::Pass;

/// What later certificates say about a skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipVerdict {
    /// It happened: a later window begins where it ends, or is another pass over it.
    Confirmed,
    /// It never happened: a later window begins inside it.
    Contradicted,
    /// Nothing tells.
    Unconfirmed,
}

/// A certificate of a skip that is not in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// Its object name.
    pub certificate: String,
    /// Where the stretch begins.
    pub start: Timestamp,
    /// Where it ends.
    pub end: Timestamp,
    /// What later certificates say.
    pub verdict: SkipVerdict,
    /// Whether it is taken for one that happened.
    pub believed: bool,
}

/// Judges a skip by everything that is certified.
pub(super) fn judge_skip(skip: &Pass, certified: &[Pass]) -> SkipVerdict {
    let (start, end) = (skip.window.start(), skip.window.end());
    let mut later = certified.iter().filter(|it| it.certificate.epoch > skip.certificate.epoch);
    // Of a skip that happened, no part is ever cut into a window; so this outweighs the other.
    let inside = |it: &Pass| {
        it.window != skip.window && start <= it.window.start() && it.window.start() < end
    };
    if later.clone().any(inside) {
        return SkipVerdict::Contradicted;
    }
    match later.any(|it| it.window == skip.window || it.window.start() == end) {
        true => SkipVerdict::Confirmed,
        false => SkipVerdict::Unconfirmed,
    }
}

#[cfg(test)]
mod tests {
    use protocol::names::CertificateName;
    use protocol::{Window, WindowKey};

    use super::*;

    fn pass(start: u32, end: u32, revision: u16, epoch: u64) -> Pass {
        let day = |day: u32| format!("2024-12-{day:02}").parse().expect("a date");
        let window = Window::new(day(start), day(end)).expect("a window");
        let certificate = CertificateName { window: WindowKey::new(window, revision), epoch };
        Pass { window, certificate }
    }

    #[test]
    fn a_skip_is_believed_for_what_came_after_it() {
        let skip = pass(3, 6, 0, 5);
        let before = [pass(1, 3, 0, 4), skip];
        let judged = |more: &[Pass]| judge_skip(&skip, &[&before[..], more].concat());
        assert_eq!(judged(&[]), SkipVerdict::Unconfirmed);
        // What lay there already when it was skipped up to it says nothing.
        assert_eq!(judged(&[pass(6, 7, 0, 2)]), SkipVerdict::Unconfirmed);
        assert_eq!(judged(&[pass(6, 7, 0, 6)]), SkipVerdict::Confirmed);
        assert_eq!(judged(&[pass(3, 6, 1, 6)]), SkipVerdict::Confirmed);
        // Whoever led next went on from where the skip begins.
        assert_eq!(judged(&[pass(3, 4, 0, 6)]), SkipVerdict::Contradicted);
        let all = [pass(3, 4, 0, 6), pass(4, 6, 0, 6), pass(6, 7, 0, 6)];
        assert_eq!(judged(&all), SkipVerdict::Contradicted);
    }
}
