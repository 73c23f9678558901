//! `des adjust`: moves the watermark.

use coordinator::adjust::{AdjustPlan, Operator, Target, adjust, plan_adjust};
use retriever::Archive;
use serde::Serialize;

use crate::cli::AdjustArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::wiring;

#[derive(Serialize)]
struct AdjustResult {
    #[serde(flatten)]
    plan: AdjustPlan,
    changed: bool,
}

pub(super) async fn run(args: AdjustArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let catalog = wiring::catalog(&config).await?;
    let ledger = wiring::ledger_to_read(&config).await?;
    let target = match (args.target.set_date, args.target.days_offset) {
        (Some(date), _) => Target::At(date),
        (None, Some(days)) => Target::Days(days),
        (None, None) => return Err(Failure::usage("say --set-date or --days-offset")),
    };
    let plan = plan_adjust(&*ledger, &*catalog, target, args.allow_skip).await?;
    let there_already = plan.to == plan.from && plan.to == plan.settled_until;
    let changed = !args.dry_run && !there_already;
    if changed {
        let ledger = wiring::ledger(&config, false).await?;
        let store = wiring::store(&config, false).await?;
        let archive = Archive::open(store.clone()).await?;
        let operator = Operator {
            actor: wiring::actor(),
            reason: args.reason,
            identity: archive.identity(),
            settings: config.pack,
            writer: wiring::process_name("adjust"),
        };
        adjust(&*ledger, &store, &plan, &operator).await?;
    }
    output.result(&AdjustResult { plan, changed }, human)?;
    Ok(Exit::Done)
}

fn human(result: &AdjustResult) -> String {
    let AdjustResult { plan, changed } = result;
    let mut rows = vec![("from", plan.from.to_string()), ("to", plan.to.to_string())];
    if plan.to != plan.asked {
        rows.push(("asked for", format!("{}, inside a certified window", plan.asked)));
    }
    rows.push(("uncommitted windows dropped", grouped(plan.dropped_windows)));
    rows.push(("certified windows passed", grouped(plan.certified_windows)));
    rows.push(("files skipped", grouped(plan.skipped_files)));
    let end = match (changed, plan.to == plan.from) {
        (true, _) => "The watermark was moved.\n",
        (false, true) => "The watermark is there already.\n",
        (false, false) => "Nothing was changed.\n",
    };
    table(&rows) + end
}
