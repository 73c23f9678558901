//! The code blocks of README.md, ARCHITECTURE.md, CONTRIBUTING.md and docs/.

use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// The file that it stands in, and the line that it begins on.
    pub(crate) place: String,
    /// What stands behind the fence: `sh`, `yaml`, or nothing.
    pub(crate) language: String,
    pub(crate) text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Name and text of every paper, in the order of their names.
pub(crate) fn papers() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs/");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> =
        docs.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    let others = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
    paths.extend(others.map(|name| root().join(name)));
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).expect("below it").display().to_string();
        (name, std::fs::read_to_string(path).expect("a paper"))
    };
    paths.iter().map(read).collect()
}

/// Every fenced block of every paper.
pub(crate) fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for (name, text) in papers() {
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(language) = line.trim_start().strip_prefix("```") else {
                // It would open a block that nothing here sees, and whose end opens another.
                assert!(!line.contains("```"), "{name}:{}: a fence needs a line", number + 1);
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            let inside = lines.by_ref().take_while(|(_, line)| line.trim_start() != "```");
            let text =
                inside.map(|(_, line)| format!("{}\n", line.get(indent..).unwrap_or_default()));
            blocks.push(Block {
                place: format!("{name}:{}", number + 1),
                language: language.to_owned(),
                text: text.collect(),
            });
        }
    }
    blocks
}
