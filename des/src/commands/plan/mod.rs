//! `des plan`: what archiving will take, before the first byte is moved. Writes nothing.

mod lines;

use std::time::Duration;

use coordinator::outlook::{look_ahead, rows_ahead};
use protocol::Row;
use serde::Serialize;
use worker::sample::{Sample, take_sample};

use self::lines::{Line, Sampled, lines};
use crate::cli::PlanArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, bytes, grouped};
use crate::wiring;

/// No file of the sample is begun after this.
const SAMPLE_LIMIT: Duration = Duration::from_secs(60);
/// A read that hangs is left behind after so much more.
const HANG_LIMIT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Plan {
    /// Where the watermark stands, or will when the archive is made.
    from: protocol::Timestamp,
    /// Whether there is a watermark already.
    begun: bool,
    /// How far windows may reach now.
    target: protocol::Timestamp,
    /// What was sampled.
    sample: Sampled,
    /// Every figure, with what it rests on.
    lines: Vec<Line>,
}

pub(super) async fn run(args: PlanArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let catalog = wiring::catalog(&config).await?;
    let ledger = match config.ledger() {
        Ok(_) if wiring::ledger_exists(&config)? => Some(wiring::ledger_to_read(&config).await?),
        _ => None,
    };
    let seed = wiring::seed(&config, 0, None);
    let outlook = look_ahead(ledger.as_deref(), &*catalog, &seed).await?;
    let span = config.coordinator.window_span_micros;
    let rows = rows_ahead(&*catalog, &outlook, span, args.sample).await?;
    let sampled = sample(&config, rows).await;
    let cores = args.cores.unwrap_or_else(|| wiring::cores().into());
    let lines =
        lines(&outlook, &sampled, &config.pack, config.coordinator.partition_rows, (&args, cores));
    let (from, begun, target) = (outlook.from, outlook.begun, outlook.target);
    output.result(&Plan { from, begun, target, sample: sampled, lines }, human)?;
    Ok(Exit::Done)
}

/// Reads the files of these rows on a thread of their own, where that is possible here.
async fn sample(config: &Config, rows: Vec<Row>) -> Sampled {
    let asked = rows.len() as u64;
    let uid_bytes = rows.iter().map(|row| row.uid.len() as u64).sum();
    let taken = match wiring::sources(&config.roots) {
        Err(Failure::Usage(why)) => Err(why),
        Err(Failure::Failed(error)) => Err(format!("{error:#}")),
        Ok(sources) => {
            let settings = config.pack;
            let reading = tokio::task::spawn_blocking(move || {
                take_sample(&rows, &sources, &settings, SAMPLE_LIMIT)
            });
            match tokio::time::timeout(SAMPLE_LIMIT + HANG_LIMIT, reading).await {
                Ok(Ok(taken)) => taken.map_err(|error| format!("compressing: {error}")),
                Ok(Err(error)) => Err(format!("reading the sample: {error}")),
                Err(_elapsed) => Err("a file of the sample hangs while it is read".to_owned()),
            }
        }
    };
    let (sample, trouble) = match taken {
        Ok(sample) => (sample, None),
        Err(why) => (Sample::default(), Some(why)),
    };
    Sampled::new(asked, uid_bytes, sample, trouble)
}

fn human(plan: &Plan) -> String {
    let mut text = match plan.begun {
        true => format!("From the watermark, {}, to {}.\n", plan.from, plan.target),
        false => {
            format!("From {}, where the first watermark would be, to {}.\n", plan.from, plan.target)
        }
    };
    text.push('\n');
    for line in &plan.lines {
        text.push_str(&format!("  {}: {}\n", line.what, value(line)));
        text.push_str(&format!("      {}\n", line.assumption));
    }
    text.push_str("\nNothing was written.\n");
    text
}

fn value(line: &Line) -> String {
    let Some(value) = line.value else { return "unknown".to_owned() };
    match line.unit {
        "bytes" => bytes(whole(value)),
        "h" if value < 1.0 => format!("{:.1} min", value * 60.0),
        "h" => format!("{value:.1} h"),
        "" => grouped(whole(value)),
        "price" => format!("{value:.2} in the price's currency"),
        unit => format!("{} {unit}", grouped(whole(value))),
    }
}

/// A number that stands for a count.
#[expect(clippy::cast_possible_truncation, reason = "it saturates, and is not negative")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}
