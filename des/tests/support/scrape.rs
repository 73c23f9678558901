//! What a service serves over HTTP, and the table of docs/metrics.md.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::process::Running;

/// No answer takes longer, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Status and body of `GET path`.
#[track_caller]
pub(crate) fn get(process: &mut Running, path: &str) -> (u16, String) {
    let address = process.told("serving HTTP address=", LIMIT);
    let mut stream = TcpStream::connect(&address).unwrap_or_else(|why| panic!("{address}: {why}"));
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Name, type and names of labels of every metric: of a scrape, or of the paper.
pub(crate) type Known = BTreeMap<String, (String, BTreeSet<String>)>;

/// The values of labels, by the names of metric and label.
pub(crate) type LabelValues = BTreeMap<(String, String), BTreeSet<String>>;

/// One scrape.
pub(crate) struct Scrape {
    pub(crate) known: Known,
    /// Those that this process serves.
    pub(crate) label_values: LabelValues,
    /// By name with labels, as it is written.
    pub(crate) values: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    pub(crate) fn of(process: &mut Running) -> Self {
        let (status, text) = get(process, "/metrics");
        assert_eq!(status, 200, "{text}");
        let (mut known, mut values) = (Known::new(), BTreeMap::new());
        let mut label_values = LabelValues::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(of_type) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of_type.split_once(' ').expect("a name and a type");
                let before = known.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
                assert!(before.is_none(), "{name} is there twice:\n{text}");
            } else if !line.starts_with('#') {
                let (key, value) = line.rsplit_once(' ').expect("a value");
                note_labels((&mut known, &mut label_values), key);
                values.insert(key.to_owned(), value.parse().expect("a number"));
            }
        }
        Self { known, label_values, values }
    }

    /// A value, which must be there.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> f64 {
        let value = self.values.get(key).copied();
        value.unwrap_or_else(|| panic!("{key} is not served: {:#?}", self.values))
    }
}

fn note_labels((known, label_values): (&mut Known, &mut LabelValues), key: &str) {
    let (name, labels) = key.split_once('{').unwrap_or((key, ""));
    let family = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end).filter(|it| known.contains_key(*it)));
    let family = family.unwrap_or(name).to_owned();
    let entry = known.get_mut(&family).unwrap_or_else(|| panic!("{family} has no type"));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|it| it.split_once('='));
    for (label, value) in labels.filter(|(label, _)| *label != "le") {
        entry.1.insert(label.to_owned());
        let values = label_values.entry((family.clone(), label.to_owned())).or_default();
        values.insert(value.trim_matches('"').to_owned());
    }
}

/// The cells of each row of the paper's table.
fn rows_of_paper() -> Vec<[&'static str; 6]> {
    let paper = include_str!("../../../docs/metrics.md");
    let table = paper.split("## All of them").nth(1).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, unit, labels, on, meaning, _] = cells[..] else {
            panic!("six columns: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        [name.trim_matches('`'), kind, unit, labels, on, meaning]
    });
    let rows: Vec<_> = rows.collect();
    assert!(!rows.is_empty(), "the table was not found");
    rows
}

/// What the paper says that processes of these roles serve.
pub(crate) fn of_paper(roles: &[&str]) -> Known {
    let mut known = Known::new();
    for [name, kind, _unit, labels, on, _meaning] in rows_of_paper() {
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if on.split(", ").any(|role| roles.contains(&role)) {
            known.insert(name.to_owned(), (kind.to_owned(), labels));
        }
    }
    known
}

/// The values that the paper lists of labels, all of which a fleet serves. `as in` somewhere else is no
/// list.
pub(crate) fn label_values_of_paper() -> LabelValues {
    let mut label_values = LabelValues::new();
    for [name, _kind, _unit, labels, _on, _meaning] in rows_of_paper() {
        for part in labels.split(';').filter(|it| !it.is_empty()) {
            let (label, values) = part.split_once(':').expect("a label, and its values");
            let (label, values) = (label.trim().trim_matches('`'), values.trim());
            if !values.starts_with("as in ") {
                let values = values.split(", ").map(str::to_owned).collect();
                label_values.insert((name.to_owned(), label.to_owned()), values);
            }
        }
    }
    assert!(label_values.len() > 10, "{label_values:#?}");
    label_values
}
