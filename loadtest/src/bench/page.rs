//! The report as a page of HTML by itself: the table, every figure, and plots drawn as SVG.

use std::fmt::Write as _;

use super::Report;
use crate::measure::line::{Line, Plot};
use crate::measure::spread::readable;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 16.0;
const RIGHT: f64 = 16.0;
/// Values at which an axis is labelled.
const TICKS: u32 = 4;
/// A largest value so many times the smallest is drawn on a logarithmic axis.
const WIDE: f64 = 50.0;
const COLOURS: [&str; 4] = ["#1f5fa8", "#b8561b", "#4c8c3b", "#7a4a9c"];
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;\
    padding:0 1em;color:#222}table{border-collapse:collapse;width:100%}td,th{text-align:left;\
    vertical-align:top;padding:.3em .6em;border-bottom:1px solid #ddd}.missed{color:#a3261c}\
    .reached{color:#2a7a2a}svg{background:#fafafa;max-width:100%}svg text{font-size:12px;fill:#444}\
    h2{margin-top:2em;font-size:1.1em}li{margin:.1em 0}";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>DES Fleet: measured</title><style>{STYLE}</style>\n<h1>DES Fleet: measured</h1>\n\
         <p>Commit {}; {} cores ({}), {} MiB, Linux {}; {} s{}. Medians, with the smallest and the \
         largest run.</p>\n<table><tr><th>what<th>target<th>measured<th><th>others used</tr>\n",
        escaped(&report.commit),
        machine.cores,
        escaped(&machine.processor),
        machine.memory_mib,
        escaped(&machine.kernel),
        readable(report.seconds),
        if report.quick { ", the quick form" } else { "" },
    );
    for line in &report.lines {
        let written = writeln!(
            html,
            "<tr><td><a href=\"#{}\">{}</a><td>{}<td>{}<td class=\"{}\">{}<td>{:.0} %</tr>",
            line.name,
            escaped(&line.what),
            escaped(&line.target_text()),
            escaped(&line.measured_text()),
            line.verdict(),
            line.verdict(),
            line.taken_by_others * 100.0
        );
        written.unwrap_or_default();
    }
    html.push_str("</table>\n");
    report.lines.iter().for_each(|line| html.push_str(&section(line)));
    html.push_str("</html>\n");
    html
}

fn section(line: &Line) -> String {
    let mut html =
        format!("<h2 id=\"{}\">{}: {}</h2>\n<table>\n", line.name, line.name, escaped(&line.what));
    for figure in &line.figures {
        let value = escaped(&figure.value.text());
        html.push_str(&format!(
            "<tr><td>{}<td>{value} {}</tr>\n",
            escaped(&figure.name),
            figure.unit
        ));
    }
    html.push_str("</table>\n<ul>\n");
    for note in &line.notes {
        html.push_str(&format!("<li>{}</li>\n", escaped(note)));
    }
    html.push_str("</ul>\n");
    line.plots.iter().for_each(|plot| html.push_str(&drawn(plot)));
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where values lie on an axis.
struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (from, to) = (from.min(value), to.max(value));
        }
        let logarithmic = !from_zero && from > 0.0 && to / from > WIDE;
        if from_zero || !from.is_finite() {
            from = 0.0;
        }
        if !to.is_finite() || to <= from {
            to = from + 1.0;
        }
        Self { from, to, logarithmic }
    }

    /// 0 to 1.
    fn place(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }

    fn ticks(&self) -> Vec<f64> {
        let at = |step: u32| f64::from(step) / f64::from(TICKS);
        let value = |part: f64| {
            if self.logarithmic {
                self.from * (self.to / self.from).powf(part)
            } else {
                self.from + (self.to - self.from) * part
            }
        };
        (0..=TICKS).map(|step| value(at(step))).collect()
    }
}

fn drawn(plot: &Plot) -> String {
    let points = || plot.series.iter().flat_map(|(_, points)| points.iter().copied());
    let (across, up) =
        (Axis::over(points().map(|it| it.0), false), Axis::over(points().map(|it| it.1), true));
    let x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(
        "<h3>{}</h3>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">\n",
        escaped(&plot.title)
    );
    for tick in up.ticks() {
        let at = y(tick);
        svg.push_str(&format!(
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            readable(tick)
        ));
    }
    for tick in across.ticks() {
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            x(tick),
            HEIGHT - BOTTOM + 16.0,
            readable(tick)
        ));
    }
    svg.push_str(&format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"4\" y=\"12\">{}</text>\n",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        plot.x,
        plot.y
    ));
    for ((name, points), colour) in plot.series.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        svg.push_str(&format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\">\
             <title>{}</title></polyline>\n",
            path.join(" "),
            escaped(name)
        ));
    }
    svg.push_str("</svg>\n<p>");
    for ((name, _), colour) in plot.series.iter().zip(COLOURS.iter().cycle()) {
        svg.push_str(&format!("<span style=\"color:{colour}\">■</span> {} ", escaped(name)));
    }
    svg.push_str("</p>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_drawing() {
        let points = vec![(10_000.0, 5.0), (1_000_000.0, 80.0)];
        let plot = Plot {
            title: "a < b".to_owned(),
            x: "files",
            y: "files/s",
            series: vec![("des".to_owned(), points)],
        };
        let svg = drawn(&plot);
        assert!(svg.contains("a &lt; b"));
        let (_, rest) = svg.split_once("points=\"").expect("a line");
        let (points, _) = rest.split_once('"').expect("its end");
        let numbers: Vec<(f64, f64)> = points
            .split(' ')
            .filter_map(|point| point.split_once(','))
            .map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y")))
            .collect();
        assert_eq!(numbers.len(), 2);
        assert!((numbers[0].0 - LEFT).abs() < 0.1 && (numbers[1].0 - (WIDTH - RIGHT)).abs() < 0.1);
        assert!((numbers[1].1 - TOP).abs() < 0.1 && numbers[0].1 > numbers[1].1);
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        let plot =
            Plot { title: String::new(), x: "", y: "", series: vec![(String::new(), vec![])] };
        assert!(drawn(&plot).contains("points=\"\""));
    }
}
