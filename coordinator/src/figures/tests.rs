use backends::queue::InProcessQueue;

use super::*;
use crate::gated::{GatedCatalog, ledger_in};

/// A day.
const SPAN: i64 = 86_400_000_000;

fn watch(catalog: &Arc<GatedCatalog>, ledger: backends::ledger::SqliteLedger) -> (Board, Watch) {
    let board = Board::default();
    board.leads(1, Instant::now() + Duration::from_secs(3_600));
    let catalog: Arc<dyn Catalog> = Arc::<GatedCatalog>::clone(catalog);
    let queue = Arc::new(InProcessQueue::new());
    (board.clone(), Watch::new(board, Arc::new(ledger), catalog, queue, SPAN))
}

#[tokio::test]
async fn a_count_that_takes_long_keeps_no_other_figure_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalog = Arc::new(GatedCatalog::new(9, 0));
    let (_board, mut watch) = watch(&catalog, ledger_in(directory.path()).await);
    for _again in 0..2 {
        let figures = watch.read().await.expect("the ledger answers").expect("they are ours");
        assert!(figures.lag_seconds > 0 && figures.archived_until.is_some(), "{figures:?}");
        assert_eq!((figures.pending_files, figures.backlog_seconds), (None, None));
    }
    catalog.counting.add_permits(1);
    let figures = loop {
        let figures = watch.read().await.expect("the ledger answers").expect("they are ours");
        if figures.pending_files.is_some() {
            break figures;
        }
    };
    assert_eq!(figures.pending_files, Some(7));
    assert_eq!(catalog.counting.available_permits(), 0, "it was counted once");
}

#[tokio::test]
async fn the_pace_is_known_however_seldom_figures_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let catalog = Arc::new(GatedCatalog::new(9, 9));
    let (board, mut watch) = watch(&catalog, ledger_in(directory.path()).await);
    let figures = Figures { pending_files: Some(1_000), ..Figures::default() };
    let long_ago = Instant::now().checked_sub(PACE_OVER * 2).expect("a time");
    watch.pace.push_back((long_ago, 0));
    board.accepted(100);
    let left = watch.backlog(&figures).expect("something moved");
    let expected = PACE_OVER.as_secs_f64() * 20.0;
    assert!((left / expected - 1.0).abs() < 0.1, "{left} s, rather than {expected} s");
    watch.pace.push_front((long_ago, 0));
    watch.backlog(&figures).expect("something moved");
    assert_eq!(watch.pace.len(), 3, "all but one of what is too old is forgotten");
}
