//! `des gc`: removes objects that nothing will ever name.

use backends::ledger::AuditEntry;
use coordinator::gc::{Count, GcOptions, GcReport, collect};

use crate::cli::GcArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped, table};
use crate::wiring;

pub(super) async fn run(args: GcArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let store = wiring::store(&config, false).await?;
    let ledger = match args.dry_run {
        true => wiring::ledger_to_read(&config).await?,
        false => wiring::ledger(&config, false).await?,
    };
    let options = GcOptions { grace: config.coordinator.gc_grace, dry_run: args.dry_run };
    let entry = |to: String| AuditEntry {
        actor: wiring::actor(),
        action: "gc".to_owned(),
        from: None,
        to: Some(to),
        reason: args.reason.clone(),
    };
    // Before anything is removed: whoever sweeps may be killed in the middle of it.
    if !args.dry_run {
        ledger.record_audit(&entry("begun".to_owned())).await?;
    }
    let mut report = GcReport::default();
    let done = collect(&store, &*ledger, options, &mut report).await;
    let removed = report.removed();
    // What was removed is written down also when the sweep ended midway.
    if !args.dry_run && (done.is_ok() || removed.objects > 0) {
        let told = format!("{} objects removed, {} bytes", removed.objects, removed.bytes);
        ledger.record_audit(&entry(told)).await?;
    }
    done?;
    output.result(&report, human)?;
    Ok(Exit::Done)
}

fn human(it: &GcReport) -> String {
    let count = |count: Count| format!("{} ({})", grouped(count.objects), bytes(count.bytes));
    let mut text = table(&[
        ("certificates read", grouped(it.certificates_read)),
        ("superseded certificates", count(it.certificates)),
        ("receipts", count(it.receipts)),
        ("shards", count(it.shards)),
        ("manifests", count(it.manifests)),
        ("half-written files", count(it.staging)),
        ("kept, still young", count(it.kept_young)),
    ]);
    let removed = it.removed();
    text.push_str(&match (removed.objects, it.dry_run) {
        (0, _) => "There is nothing to remove.\n".to_owned(),
        (_, true) => format!("{} would be removed. Nothing was changed.\n", count(removed)),
        (_, false) => format!("{} removed.\n", count(removed)),
    });
    text
}
