//! The report as one page of HTML that needs nothing else: figures, a timeline, the faults by kind.

use std::fmt::Write as _;

use super::report::{FaultRecord, Report};
use super::round::RoundReport;

const WIDTH: f64 = 1_120.0;
const LEFT: f64 = 70.0;
const PLOT: f64 = WIDTH - LEFT - 10.0;
/// Each panel's top and height.
const SETTLED: (f64, f64) = (20.0, 150.0);
const THROUGHPUT: (f64, f64) = (200.0, 110.0);
const FAULTS: (f64, f64) = (340.0, 105.0);
const HEIGHT: f64 = 475.0;
/// Points of the line and bars of the throughput.
const MOST_POINTS: usize = 1_500;
const BARS: usize = 120;
/// Families of faults, each with a lane and a colour.
const FAMILIES: [(&str, &str); 8] = [
    ("worker", "#2f6fb0"),
    ("coordinator", "#b0482f"),
    ("leader", "#c98a5e"),
    ("crash", "#8a2fb0"),
    ("stalled", "#b02f7a"),
    ("database", "#2f9a6b"),
    ("broker", "#b08a2f"),
    ("store", "#5a6472"),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2rem auto;\
padding:0 1rem;color:#1c2430;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem}\
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:right;\
border-bottom:1px solid #e3e7ec}td:first-child,th:first-child{text-align:left}\
.verdict{font-size:1.1rem;font-weight:600}.good{color:#1d7a46}.bad{color:#b3261e}\
svg text{font:12px system-ui,sans-serif;fill:#4a5563}svg{width:100%;height:auto}";

/// Where things lie on the time axis.
struct Axis {
    from: f64,
    seconds: f64,
}

impl Axis {
    fn x(&self, at: i64) -> f64 {
        LEFT + (seconds(at) - self.from) / self.seconds * PLOT
    }
}

#[expect(clippy::cast_precision_loss, reason = "places on a picture")]
fn seconds(at: i64) -> f64 {
    at as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "places on a picture")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The page.
pub(crate) fn page(report: &Report, rounds: &[RoundReport]) -> String {
    let mut page = String::new();
    let verdict = match report.is_clean() {
        true => ("good", "Nothing was lost, and nothing else was found."),
        false => ("bad", "Something was found: see below."),
    };
    let mut add = |text: &str| page.push_str(text);
    add("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>des chaos</title><style>");
    add(STYLE);
    add("</style><h1>des under faults</h1>");
    add(&format!("<p class=\"verdict {}\">{}</p>", verdict.0, verdict.1));
    add(&figures(report));
    add("<h2>Timeline</h2>");
    add(&timeline(rounds));
    add(&table(report));
    if !report.findings.is_empty() {
        add("<h2>Findings</h2><ul>");
        for finding in &report.findings {
            add(&format!("<li>{:?}: {}</li>", finding.sin, escaped(&finding.what)));
        }
        add("</ul>");
    }
    add("</html>\n");
    page
}

fn figures(report: &Report) -> String {
    let Report { files, windows, rounds, faults_effective, faults_without_effect, seed, .. } =
        report;
    let Report { lost, wrong, watermark_regressions, double_commits, duplicates_removed, .. } =
        report;
    format!(
        "<p>{files} file placements in {windows} windows and {rounds} rounds, {faults_effective} \
         effective faults ({faults_without_effect} more met nothing), {:.0} s, seed {seed}.</p>\
         <table><tr><th>lost<th>wrong<th>watermark regressions<th>double commits<th>stuck\
         <th>duplicates removed</tr><tr><td>{lost}<td>{wrong}<td>{watermark_regressions}\
         <td>{double_commits}<td>{}<td>{duplicates_removed}</tr></table>",
        report.seconds, report.stuck
    )
}

fn table(report: &Report) -> String {
    let mut text = "<h2>Faults by kind</h2><table><tr><th>kind<th>effective<th>met nothing\
                    <th>time to recover, median s<th>longest s</tr>"
        .to_owned();
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    for it in &report.faults_by_kind {
        let (median, max) = (shown(it.recover_seconds_median), shown(it.recover_seconds_max));
        let _never_fails = write!(
            text,
            "<tr><td>{}<td>{}<td>{}<td>{median}<td>{max}</tr>",
            escaped(&it.kind),
            it.effective,
            it.without_effect
        );
    }
    text + "</table><p>Time to recover: from the end of a fault to the next partition that was \
            accepted. Faults overlap, so it holds what others added.</p>"
}

fn timeline(rounds: &[RoundReport]) -> String {
    let times = rounds.iter().flat_map(|round| round.samples.iter().map(|sample| sample.at));
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return String::new();
    };
    let (from, to) = (seconds(first), seconds(last));
    let axis = Axis { from, seconds: (to - from).max(1.0) };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"files settled, \
         throughput and faults over time\">"
    );
    svg += &settled_line(rounds, &axis);
    svg += &throughput_bars(rounds, &axis);
    svg += &fault_lanes(rounds.iter().flat_map(|round| &round.faults), &axis);
    for tick in 0..=8_u32 {
        let at = f64::from(tick) / 8.0;
        let x = LEFT + at * PLOT;
        let label = axis.seconds * at;
        let _never_fails = write!(
            svg,
            "<text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{label:.0} s</text>",
            HEIGHT - 8.0
        );
    }
    svg + "</svg>"
}

fn panel((top, height): (f64, f64), title: &str, most: &str) -> String {
    format!(
        "<text x=\"0\" y=\"{}\">{title}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most}\
         </text><path d=\"M{LEFT} {top}V{}H{}\" fill=\"none\" stroke=\"#c9d0d8\"/>",
        top - 6.0,
        LEFT - 6.0,
        top + 10.0,
        top + height,
        LEFT + PLOT
    )
}

/// Files at or below the watermarks, rounds one upon the other.
fn settled_line(rounds: &[RoundReport], axis: &Axis) -> String {
    let mut before = 0;
    let mut points = Vec::new();
    for round in rounds {
        points.extend(round.samples.iter().map(|sample| (sample.at, before + sample.settled)));
        before += round.samples.last().map_or(0, |sample| sample.settled);
    }
    let (top, height) = SETTLED;
    let most = float(before).max(1.0);
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let mut path = String::new();
    for (at, settled) in points.iter().step_by(every).chain(points.last()) {
        let y = top + height - float(*settled) / most * height;
        let word = if path.is_empty() { 'M' } else { 'L' };
        let _never_fails = write!(path, "{word}{:.1} {y:.1}", axis.x(*at));
    }
    panel(SETTLED, "files at or below the watermark", &before.to_string())
        + &format!("<path d=\"{path}\" fill=\"none\" stroke=\"#1d7a46\" stroke-width=\"2\"/>")
}

fn throughput_bars(rounds: &[RoundReport], axis: &Axis) -> String {
    let mut sums = vec![0_u64; BARS];
    for (at, rows) in rounds.iter().flat_map(|round| &round.accepts) {
        let place = (seconds(*at) - axis.from) / axis.seconds * float(BARS as u64);
        let bar = (0..BARS).rfind(|bar| float(*bar as u64) <= place).unwrap_or_default();
        if let Some(sum) = sums.get_mut(bar) {
            *sum += rows;
        }
    }
    let (top, height) = THROUGHPUT;
    let span = axis.seconds / float(BARS as u64);
    let most = sums.iter().copied().max().unwrap_or_default().max(1);
    let width = PLOT / float(BARS as u64);
    let mut svg =
        panel(THROUGHPUT, "files accepted a second", &format!("{:.0}", float(most) / span));
    for (bar, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0) {
        let tall = float(*sum) / float(most) * height;
        let _never_fails = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"#9db8d3\"/>",
            LEFT + float(bar as u64) * width,
            top + height - tall,
            width - 0.5
        );
    }
    svg
}

fn fault_lanes<'a>(faults: impl Iterator<Item = &'a FaultRecord>, axis: &Axis) -> String {
    let (top, height) = FAULTS;
    let lane_height = height / float(FAMILIES.len() as u64);
    let mut svg = format!("<text x=\"0\" y=\"{}\">faults; pale: met nothing</text>", top - 6.0);
    for (lane, (family, _)) in FAMILIES.iter().enumerate() {
        let y = top + lane_height * (float(lane as u64) + 0.75);
        let _never_fails = write!(svg, "<text x=\"0\" y=\"{y:.1}\">{family}</text>");
    }
    for fault in faults {
        let family = FAMILIES.iter().enumerate().find(|(_, it)| fault.kind.starts_with(it.0));
        let Some((lane, (_, colour))) = family else { continue };
        let (from, to) = (axis.x(fault.began), axis.x(fault.over));
        let _never_fails = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" \
             opacity=\"{}\"><title>{} #{}: {}</title></rect>",
            top + lane_height * float(lane as u64) + 1.0,
            (to - from).max(1.5),
            lane_height - 3.0,
            if fault.effective { "0.85" } else { "0.2" },
            escaped(&fault.kind),
            fault.number,
            escaped(&fault.note)
        );
    }
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::kind::Kind;
    use crate::chaos::plan::{Only, fault};
    use crate::chaos::report::Sample;

    #[test]
    fn every_kind_of_fault_has_a_lane() {
        let kinds = (0..2_000).map(|number| fault(1, number, true, Only::ALL).kind);
        for name in kinds.map(Kind::name) {
            assert!(FAMILIES.iter().any(|(family, _)| name.starts_with(family)), "{name}");
        }
    }

    #[test]
    fn the_page_shows_what_happened_and_needs_nothing_else() {
        let record = FaultRecord {
            number: 7,
            kind: "worker killed".to_owned(),
            began: 1_000_000,
            over: 2_000_000,
            effective: true,
            note: "<at work>".to_owned(),
            recovered: Some(3_000_000),
            unseated: None,
        };
        let samples = vec![Sample { at: 0, settled: 0 }, Sample { at: 4_000_000, settled: 4_321 }];
        let round = RoundReport {
            faults: vec![record],
            samples,
            accepts: vec![(3_000_000, 4_321)],
            ..RoundReport::default()
        };
        let rounds = [round];
        let page = page(&Report::of(1, &rounds, 0, 4.0), &rounds);
        assert!(page.contains("4321") && page.contains("worker killed #7: &lt;at work&gt;"));
        assert!(!page.contains("http"), "it asks for something else");
    }
}
