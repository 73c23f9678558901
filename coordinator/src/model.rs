//! The pure parts under a seeded model: what cuts windows, groups partitions, judges answers and
//! accepts receipts, with a queue that drops, repeats and reorders, workers that die or lie, and
//! leaders that follow one another without knowing it.
//!
//! Everything that is decided is decided by the coordinator's own functions; the world around them
//! (rows, ledger, store, queue, workers) is made of plain values, so that a seed takes a fraction
//! of a millisecond. The oracle looks after every step.

mod leader;
mod worker;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Counts, World};

/// Seeds of a run, unless `DES_MODEL_SEEDS` says otherwise.
const SEEDS: u64 = 100_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is to be a number, and is {text}")))
}

/// `DES_MODEL_SEED=N` runs one seed alone.
#[test]
fn no_order_of_events_loses_a_row_or_misplaces_the_watermark() {
    let seeds = match from_environment("DES_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("DES_MODEL_SEEDS").unwrap_or(SEEDS),
    };
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Counts::default()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut counts = Counts::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match World::new(seed).run() {
                        Ok(of_seed) => counts += of_seed,
                        Err(why) => panic!("seed {seed}: {why} (DES_MODEL_SEED={seed} runs it)"),
                    }
                }
                *sum.lock().expect("no thread panicked") += counts;
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panicked");
    if seeds.end - seeds.start >= 1_000 {
        // A model in which nothing happens proves nothing.
        assert!(sum.is_busy(), "{sum:?}");
        // Trouble is isolated: few files are given up that have no fault of their own.
        assert!(sum.sound_given_up * 50 < sum.sound, "{sum:?}");
    }
}

/// The model must notice what it is there for.
#[test]
fn a_coordinator_that_believes_counts_is_caught() {
    let caught = (0..2_000).find_map(|seed| World::gullible(seed).run().err());
    assert!(caught.is_some_and(|why| why.contains("neither")), "nobody noticed");
}
