//! `des audit`: what operators did.

use backends::ledger::AuditRecord;
use protocol::Timestamp;
use serde::Serialize;

use super::export;
use crate::cli::{AuditArgs, AuditCommand};
use crate::config::Config;
use crate::output::{Exit, Failure, Output, printable};
use crate::wiring;

#[derive(Serialize)]
struct AuditResult {
    /// The newest first.
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    at: Timestamp,
    actor: String,
    action: String,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
}

impl From<AuditRecord> for Entry {
    fn from(AuditRecord { at, entry }: AuditRecord) -> Self {
        let backends::ledger::AuditEntry { actor, action, from, to, reason } = entry;
        Self { at, actor, action, from, to, reason }
    }
}

pub(super) async fn run(args: AuditArgs, output: Output) -> Result<Exit, Failure> {
    if let Some(AuditCommand::Export(args)) = args.command {
        return export::run(args, output).await;
    }
    let path = args.config.ok_or_else(|| Failure::usage("say --config"))?;
    let config = Config::load(&path)?;
    let ledger = wiring::ledger_to_read(&config).await?;
    let log = ledger.audit_log(args.limit).await?;
    let result = AuditResult { entries: log.into_iter().map(Entry::from).collect() };
    output.result(&result, human)?;
    Ok(Exit::Done)
}

fn human(result: &AuditResult) -> String {
    if result.entries.is_empty() {
        return "Nobody did anything yet.\n".to_owned();
    }
    let line = |it: &Entry| {
        let mut line = format!("{}  {}  {}", it.at, it.actor, it.action);
        for (label, value) in [(" from ", &it.from), (" to ", &it.to), (": ", &it.reason)] {
            if let Some(value) = value {
                line.push_str(label);
                line.push_str(value);
            }
        }
        // Whoever gave a reason may have put lines or worse into it.
        printable(&line) + "\n"
    };
    result.entries.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line() {
        let entry = Entry {
            at: "2024-12-01T10:00:00Z".parse().expect("a time"),
            actor: "ada@console".to_owned(),
            action: "adjust".to_owned(),
            from: Some("A".to_owned()),
            to: Some("B".to_owned()),
            reason: Some("it's\nlate \u{1b}[1m".to_owned()),
        };
        assert_eq!(
            human(&AuditResult { entries: vec![entry] }),
            "2024-12-01T10:00:00Z  ada@console  adjust from A to B: it's\\nlate \\u{1b}[1m\n"
        );
    }
}
