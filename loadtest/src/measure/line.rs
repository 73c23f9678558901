//! One line of the benchmark table: what was to be reached, what was measured, and how.

use serde::Serialize;

use super::spread::{Spread, readable};

/// What a line is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing is asked of it; it is told.
    Told,
}

/// A figure with its name and unit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) value: Spread,
}

/// Points to be drawn.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) target: Target,
    pub(crate) unit: &'static str,
    /// What the target is about; `None` when it could not be measured, which a note explains.
    pub(crate) measured: Option<Spread>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) plots: Vec<Plot>,
    /// Share of the machine's processors that others used meanwhile, servers of ours among them.
    pub(crate) taken_by_others: f64,
}

impl Line {
    pub(crate) fn new(
        name: &'static str,
        what: impl Into<String>,
        target: Target,
        unit: &'static str,
    ) -> Self {
        Self {
            name,
            what: what.into(),
            target,
            unit,
            measured: None,
            figures: Vec::new(),
            notes: Vec::new(),
            plots: Vec::new(),
            taken_by_others: 0.0,
        }
    }

    pub(crate) fn measured(mut self, value: Spread) -> Self {
        self.measured = Some(value);
        self
    }

    pub(crate) fn figure(
        mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: Spread,
    ) -> Self {
        self.figures.push(Figure { name: name.into(), unit, value });
        self
    }

    pub(crate) fn one(self, name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        self.figure(name, unit, Spread::of([value]))
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn plot(mut self, plot: Plot) -> Self {
        self.plots.push(plot);
        self
    }

    /// Whether the target is reached, by the median; `None` where there is none or no figure.
    pub(crate) fn reached(&self) -> Option<bool> {
        let median = self.measured?.median;
        match self.target {
            Target::AtMost(limit) => Some(median <= limit),
            Target::AtLeast(limit) => Some(median >= limit),
            Target::Told => None,
        }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match (self.measured, self.reached()) {
            (None, _) => "not measured",
            (_, Some(true)) => "reached",
            (_, Some(false)) => "missed",
            (_, None) => "told",
        }
    }

    pub(crate) fn target_text(&self) -> String {
        let unit = self.unit;
        match self.target {
            Target::AtMost(limit) => format!("≤ {} {unit}", readable(limit)),
            Target::AtLeast(limit) => format!("≥ {} {unit}", readable(limit)),
            Target::Told => "told".to_owned(),
        }
    }

    pub(crate) fn measured_text(&self) -> String {
        self.measured.map_or_else(
            || "not measured".to_owned(),
            |value| format!("{} {}", value.text(), self.unit),
        )
    }

    /// For a person: the line, then its figures and notes.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}: {}\n  target {}; measured {}: {}\n",
            self.name,
            self.what,
            self.target_text(),
            self.measured_text(),
            self.verdict()
        );
        for Figure { name, unit, value } in &self.figures {
            text.push_str(&format!("    {name}: {} {unit}\n", value.text()));
        }
        for note in &self.notes {
            text.push_str(&format!("    {note}\n"));
        }
        let percent = self.taken_by_others * 100.0;
        text.push_str(&format!("    others used {percent:.0} % of the machine meanwhile\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_about_the_median() {
        let line = |target| Line::new("a", "b", target, "×").measured(Spread::of([0.6, 0.7, 0.9]));
        assert_eq!(line(Target::AtMost(0.7)).verdict(), "reached");
        assert_eq!(line(Target::AtMost(0.69)).verdict(), "missed");
        assert_eq!(line(Target::AtLeast(0.7)).verdict(), "reached");
        assert_eq!(line(Target::Told).verdict(), "told");
        assert_eq!(Line::new("a", "b", Target::AtMost(1.0), "").verdict(), "not measured");
    }
}
