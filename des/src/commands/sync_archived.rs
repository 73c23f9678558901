//! `des sync-archived`: marks in the catalog which files are archived.

use coordinator::sync::{ArchivedSync, SyncReport, SyncRequest};

use crate::cli::SyncArchivedArgs;
use crate::config::Config;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring;

pub(super) async fn run(args: SyncArchivedArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let wanted = config.sync_archived.as_ref().ok_or_else(|| {
        Failure::usage(format!(
            "{}: `sync_archived` is not there: say `url` and `column` in it, as `des config` shows",
            config.path.display()
        ))
    })?;
    let store = wiring::store(&config, false).await?;
    let ledger = match args.dry_run {
        true => wiring::ledger_to_read(&config).await?,
        false => wiring::ledger(&config, false).await?,
    };
    wiring::refuse_older_tables(&*ledger).await?;
    let column = wiring::archived_column(&config, wanted).await?;
    let sync = ArchivedSync {
        ledger,
        store,
        column,
        settings: wiring::sync_settings(wanted),
        throttle: config.throttle.clone(),
        catalog: wiring::catalog(&config).await?,
        stop: shutdown_on_signals()?,
        board: None,
    };
    let request = SyncRequest {
        dry_run: args.dry_run,
        again: args.again,
        actor: wiring::actor(),
        reason: args.reason,
    };
    let report = sync.run(&request).await?;
    output.result(&report, human)?;
    Ok(if report.ended.is_none() { Exit::Done } else { Exit::Failed })
}

fn human(it: &SyncReport) -> String {
    let marked = if it.dry_run { "rows that would be set" } else { "rows set" };
    let mut text = table(&[
        ("column", it.target.clone()),
        ("up to", it.archived_until.to_string()),
        ("passes gone through", grouped(it.passes)),
        ("archived files looked for", grouped(it.rows)),
        (marked, grouped(it.marked)),
        ("failed files left alone", grouped(it.failed)),
    ]);
    match &it.ended {
        Some(why) => text.push_str(&format!(
            "It ended before it was done: {why}. Run it again: it goes on from there.\n"
        )),
        None if it.dry_run => text.push_str("Nothing was changed.\n"),
        None => {}
    }
    text
}
