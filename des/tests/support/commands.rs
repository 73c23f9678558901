//! The commands in code blocks of README.md, ARCHITECTURE.md, CONTRIBUTING.md and docs/.

use super::blocks::blocks;

/// Place and words of every command of every `sh` block, without comments and redirections.
pub(crate) fn commands() -> Vec<(String, Vec<String>)> {
    let mut commands = Vec::new();
    for block in blocks().into_iter().filter(|block| block.language == "sh") {
        for line in block.text.replace("\\\n", " ").lines() {
            let words = words(line);
            for command in words.split(|word| ["|", "&&"].contains(&word.as_str())) {
                let is_redirection = |word: &&String| [">", "<"].contains(&word.as_str());
                let command = command.iter().take_while(|word| !is_redirection(word));
                let command: Vec<_> = command.cloned().collect();
                if !command.is_empty() {
                    commands.push((block.place.clone(), command));
                }
            }
        }
    }
    commands
}

/// The words of a line as a shell has them, up to its comment, where nothing in it is escaped or replaced.
pub(crate) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for it in line.chars() {
        match quote {
            Some(end) if it == end => quote = None,
            None if matches!(it, '\'' | '"') => {
                quote = Some(it);
                word.get_or_insert_default();
            }
            None if it.is_whitespace() => words.extend(word.take()),
            // A comment.
            None if it == '#' && word.is_none() => break,
            _ => word.get_or_insert_default().push(it),
        }
    }
    assert_eq!(quote, None, "a quote does not end: {line}");
    words.extend(word);
    words
}
