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

/// One scrape.
pub(crate) struct Scrape {
    pub(crate) known: Known,
    /// By name with labels, as it is written.
    pub(crate) values: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    pub(crate) fn of(process: &mut Running) -> Self {
        let (status, text) = get(process, "/metrics");
        assert_eq!(status, 200, "{text}");
        let (mut known, mut values) = (Known::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(of_type) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of_type.split_once(' ').expect("a name and a type");
                let before = known.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
                assert!(before.is_none(), "{name} is there twice:\n{text}");
            } else if !line.starts_with('#') {
                let (key, value) = line.rsplit_once(' ').expect("a value");
                note_labels(&mut known, key);
                values.insert(key.to_owned(), value.parse().expect("a number"));
            }
        }
        Self { known, values }
    }

    /// A value, which must be there.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> f64 {
        let value = self.values.get(key).copied();
        value.unwrap_or_else(|| panic!("{key} is not served: {:#?}", self.values))
    }
}

fn note_labels(known: &mut Known, key: &str) {
    let (name, labels) = key.split_once('{').unwrap_or((key, ""));
    let family = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end).filter(|it| known.contains_key(*it)));
    let family = family.unwrap_or(name).to_owned();
    let entry = known.get_mut(&family).unwrap_or_else(|| panic!("{family} has no type"));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|it| it.split_once('='));
    entry.1.extend(labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le"));
}

/// What the paper says that processes of these roles serve.
pub(crate) fn of_paper(roles: &[&str]) -> Known {
    let paper = include_str!("../../../docs/metrics.md");
    let table = paper.split("## All of them").nth(1).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut known = Known::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, _unit, labels, on, meaning, _] = cells[..] else {
            panic!("six columns: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if on.split(", ").any(|role| roles.contains(&role)) {
            known.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        }
    }
    assert!(!known.is_empty(), "the table was not found");
    known
}
