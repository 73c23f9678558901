//! Names of tables and columns as an operator writes them: taken apart, quoted, and, where there
//! is no such thing, answered with what there is.

/// The most names that a message lists.
const NAMES_IN_A_MESSAGE: usize = 20;

/// Quotes an identifier for PostgreSQL and SQLite.
pub(super) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The identifiers that a configured table name may stand for, best first: each a list of parts
/// (`schema`, `table`). A name is taken as written; its lower-case form comes second, since
/// PostgreSQL folds the `Files` of a `CREATE TABLE Files` to that. Quoted parts are never folded.
pub(super) fn table_candidates(name: &str) -> Vec<Vec<String>> {
    let parts = split(name).unwrap_or_else(|| vec![Part::literal(name)]);
    let mut candidates = vec![Vec::new()];
    for part in &parts {
        candidates = part
            .spellings()
            .flat_map(|spelling| {
                candidates.iter().map(move |before: &Vec<String>| {
                    before.iter().cloned().chain([spelling.clone()]).collect()
                })
            })
            .collect();
    }
    if parts.len() > 1 {
        candidates.push(vec![name.to_owned()]);
    }
    candidates
}

/// The identifiers that a configured column name may stand for, best first.
pub(super) fn column_candidates(name: &str) -> Vec<String> {
    match split(name).as_deref() {
        Some([part]) => part.spellings().collect(),
        _ => Part::literal(name).spellings().collect(),
    }
}

/// The candidate that is among `existing`, if one is.
pub(super) fn find_column<'a, T>(
    name: &str,
    existing: &'a [T],
    name_of: impl Fn(&T) -> &str,
) -> Option<&'a T> {
    column_candidates(name)
        .iter()
        .find_map(|candidate| existing.iter().find(|column| name_of(column) == candidate))
}

/// What to say where `wanted` is not among `existing`: those, and the nearest of them.
pub(super) fn what_exists<'a>(wanted: &str, existing: impl IntoIterator<Item = &'a str>) -> String {
    let existing: Vec<&str> = existing.into_iter().collect();
    if existing.is_empty() {
        return "there are none that this user can see".to_owned();
    }
    let plain = wanted.rsplit('.').next().unwrap_or(wanted).trim_matches('"').to_lowercase();
    let likeness = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name).to_lowercase();
        strsim::normalized_damerau_levenshtein(&plain, &last)
    };
    let nearest = existing
        .iter()
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut text = format!("there are {}", list(&existing));
    if let Some((_, name)) = nearest {
        text.push_str(&format!("; did you mean `{name}`?"));
    }
    text
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> =
        names.iter().take(NAMES_IN_A_MESSAGE).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(NAMES_IN_A_MESSAGE) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

/// One identifier of a configured name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    quoted: bool,
}

impl Part {
    fn literal(text: &str) -> Self {
        Self { text: text.to_owned(), quoted: false }
    }

    fn spellings(&self) -> impl Iterator<Item = String> + '_ {
        let folded = self.text.to_lowercase();
        let also = (!self.quoted && folded != self.text).then_some(folded);
        std::iter::once(self.text.clone()).chain(also)
    }
}

/// Splits at dots outside quotes; `None` when quotes do not pair up or a part is empty, in which
/// case the whole is one name that happens to hold such characters.
fn split(name: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = name;
    loop {
        let (part, tail) = match rest.strip_prefix('"') {
            Some(inside) => take_quoted(inside)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (Part::literal(&rest[..end]), &rest[end..])
            }
        };
        if part.text.is_empty() {
            return None;
        }
        parts.push(part);
        if tail.is_empty() {
            return Some(parts);
        }
        rest = tail.strip_prefix('.')?;
    }
}

/// Reads up to the closing quote; a doubled quote stands for one.
fn take_quoted(inside: &str) -> Option<(Part, &str)> {
    let mut text = String::new();
    let mut rest = inside;
    loop {
        let end = rest.find('"')?;
        text.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                text.push('"');
                rest = after;
            }
            None => return Some((Part { text, quoted: true }, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(name: &str) -> Vec<String> {
        table_candidates(name).iter().map(|parts| parts.join("|")).collect()
    }

    #[test]
    fn a_name_is_taken_as_written_before_it_is_folded() {
        assert_eq!(tables("files"), ["files"]);
        assert_eq!(tables("Files"), ["Files", "files"]);
        assert_eq!(tables("\"Files\""), ["Files"]);
        assert_eq!(column_candidates("createdAt"), ["createdAt", "createdat"]);
        assert_eq!(column_candidates("\"created\"\"At\""), ["created\"At"]);
    }

    #[test]
    fn dots_outside_quotes_separate_schema_and_table() {
        assert_eq!(tables("app.files"), ["app|files", "app.files"]);
        assert_eq!(
            tables("App.Files"),
            ["App|Files", "app|Files", "App|files", "app|files", "App.Files"]
        );
        assert_eq!(tables("\"my.files\""), ["my.files"]);
        assert_eq!(tables("app.\"My.Table\"")[0], "app|My.Table");
    }

    #[test]
    fn what_is_not_well_formed_is_one_literal_name() {
        for odd in ["a\"b", "\"open", ".files", "files.", "a..b", "\"a\"b"] {
            assert_eq!(tables(odd)[0], odd);
        }
        assert_eq!(column_candidates("a.b"), ["a.b"]);
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn a_missing_name_is_answered_with_the_nearest() {
        let text = what_exists("crated_at", ["uid", "created_at", "file_location"]);
        assert!(text.contains("did you mean `created_at`?"), "{text}");
        assert!(what_exists("x", ["uid", "path"]).ends_with("`uid`, `path`"));
        let many: Vec<String> = (0..30).map(|n| format!("t{n}")).collect();
        assert!(what_exists("zzz", many.iter().map(String::as_str)).ends_with("and 10 more"));
    }
}
