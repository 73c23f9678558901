//! `des rebuild-ledger`: records again what the store proves.

use coordinator::rebuild::{RebuildReport, Skip, SkipVerdict, examine, rebuild};

use crate::cli::RebuildArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring;

pub(super) async fn run(args: RebuildArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let store = wiring::store(&config, false).await?;
    let existing = match wiring::ledger_exists(&config)? {
        true => Some(wiring::ledger_to_read(&config).await?),
        false => None,
    };
    let seed = wiring::seed(&config, 0, None);
    let rebuilding = examine(&store, existing.as_deref(), &seed, args.accept_skip).await?;
    if args.dry_run || !rebuilding.is_needed() {
        let needed = rebuilding.is_needed();
        output.result(rebuilding.report(), |report| human(report, needed))?;
        return Ok(Exit::Done);
    }
    let ledger = wiring::ledger(&config, true).await?;
    ledger.migrate().await?;
    let writer = wiring::process_name("rebuild-ledger");
    let done = rebuild(&store, &*ledger, &rebuilding, &seed, (&writer, args.reason)).await?;
    output.result(&done, |report| human(report, true))?;
    Ok(Exit::Done)
}

fn human(it: &RebuildReport, needed: bool) -> String {
    let mut text = table(&[
        ("archive", it.archive.clone()),
        ("origin", it.origin.to_string()),
        ("archived until", it.archived_until.to_string()),
        ("windows known", grouped(it.windows_known)),
        ("windows recorded", grouped(it.windows_recorded)),
        ("error rows", grouped(it.error_rows)),
        ("highest epoch", it.highest_epoch.to_string()),
    ]);
    if let Some(until) = it.gap_until {
        text.push_str(&format!(
            "Nothing certifies what lies between {} and {until}: the watermark stops there. It \
             is archived next; the {} windows after it are then verified and not packed twice.\n",
            it.archived_until,
            grouped(it.windows_after_gap)
        ));
    }
    for skip in it.skips.iter().filter(|skip| skip.verdict != SkipVerdict::Confirmed) {
        text.push_str(&in_doubt(skip));
    }
    text.push_str(match (needed, it.changed) {
        (false, _) => "The ledger lacks nothing that the store proves. Nothing was changed.\n",
        (true, false) => "Nothing was changed.\n",
        (true, true) => "The ledger is whole again: `des migrate` or a coordinator goes on.\n",
    });
    text
}

/// What is to be said of a skip that may never have happened.
fn in_doubt(skip: &Skip) -> String {
    let Skip { certificate, start, end, verdict, believed } = skip;
    let says = format!("{certificate} says that what lies between {start} and {end} was skipped");
    match (verdict, believed) {
        (SkipVerdict::Contradicted, _) => format!(
            "NOT BELIEVED: {says}, and a later window begins inside it: the `des adjust` that wrote \
             it died before it was done. Remove that object.\n"
        ),
        (_, true) => format!("BELIEVED AT YOUR WORD: {says}, and nothing later confirms it.\n"),
        (_, false) => format!(
            "NOT BELIEVED: {says}, and nothing later confirms it: the `des adjust` that wrote it may \
             have died before it was done. Its files are archived. If it was done and nothing came \
             after it, say `--accept-skip`, else remove that object: `des gc` refuses while nothing \
             in the ledger accounts for it.\n"
        ),
    }
}
