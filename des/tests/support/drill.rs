//! Pages that are gone through, block by block: docs/restore-drill.md and docs/takeover.md.

pub(crate) const RESTORE: &str = include_str!("../../../docs/restore-drill.md");

/// A step of a page.
pub(crate) enum Step {
    /// SQL on the ledger's database.
    Sql(String),
    /// A part of the configuration, for what comes after it.
    Yaml(String),
    /// The words of a `des` command without its configuration, and the exit code that it is to end
    /// with.
    Des(String, i32),
}

/// Everything that stands in code blocks, in order.
pub(crate) fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut block: Option<(&str, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut block) {
            (Some(kind), None) => block = Some((kind, String::new())),
            (Some(_), Some(_)) => match block.take() {
                Some(("sql", text)) => steps.push(Step::Sql(text)),
                Some(("yaml", text)) => steps.push(Step::Yaml(text)),
                Some(("sh", text)) => steps.extend(text.lines().map(command)),
                other => panic!("a block that nobody runs: {other:?}"),
            },
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(block.is_none(), "a block does not end");
    steps
}

fn command(line: &str) -> Step {
    let (words, code) = match line.split_once("# exits ") {
        Some((words, code)) => (words.trim(), code.trim().parse().expect("an exit code")),
        None => (line.trim(), 0),
    };
    let words = words.strip_prefix("des ").unwrap_or_else(|| panic!("not des's: {line}"));
    assert!(words.contains(" --config des.yaml"), "{line}");
    Step::Des(words.replace(" --config des.yaml", ""), code)
}
