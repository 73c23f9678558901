use super::*;
use protocol::Window;

fn at(day: u32) -> Timestamp {
    format!("2024-06-{day:02}").parse().expect("a date")
}

fn oracle(dir: &std::path::Path) -> Oracle {
    let journal = Arc::new(Journal::new(dir.to_owned()));
    let bucket = Bucket { journal, bucket_dir: dir.to_owned(), prefix: "round-1/".to_owned() };
    Oracle::new(Arc::new(Expected::new(Vec::new())), Arc::new(bucket))
}

fn commit(epoch: u64, lease_epoch: u64) -> Commit {
    let window = Window::new(at(1), at(2)).expect("a window");
    let key = WindowKey::new(window, 0);
    let certificate = names::certificate(key, epoch);
    Commit { window, key, certificate, lease_epoch, files_archived: 0, files_failed: 0 }
}

fn sins(oracle: &Oracle) -> Vec<Sin> {
    oracle.findings().iter().map(|finding| finding.sin).collect()
}

#[test]
fn a_watermark_goes_forward_over_committed_windows_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut it = oracle(dir.path());
    it.judge_step(Step { from: at(1), to: at(2) });
    assert_eq!(sins(&it), [Sin::WatermarkRegression]);
    it.commits.insert(commit(1, 1).key, commit(1, 1));
    it.judge_step(Step { from: at(2), to: at(1) });
    it.judge_step(Step { from: at(1), to: at(2) });
    assert_eq!(sins(&it), [Sin::WatermarkRegression; 2], "{:?}", it.findings());
}

#[test]
fn a_watermark_goes_back_once_for_each_adjustment_that_was_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut it = oracle(dir.path());
    it.commits.insert(commit(1, 1).key, commit(1, 1));
    it.judge_step(Step { from: at(1), to: at(2) });
    it.expect_adjustment(at(1));
    it.judge_step(Step { from: at(2), to: at(1) });
    it.judge_step(Step { from: at(1), to: at(2) });
    assert_eq!(sins(&it), [], "{:?}", it.findings());
    it.judge_step(Step { from: at(2), to: at(1) });
    assert_eq!(sins(&it), [Sin::WatermarkRegression]);
}

#[test]
fn one_epoch_commits_and_it_is_the_one_that_leads() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut it = oracle(dir.path());
    it.judge_commit(&commit(1, 2));
    assert!(sins(&it).contains(&Sin::DoubleCommit), "{:?}", it.findings());
    let mut it = oracle(dir.path());
    it.judge_commit(&commit(1, 1));
    assert!(!sins(&it).contains(&Sin::DoubleCommit), "{:?}", it.findings());
    it.judge_commit(&commit(2, 2));
    assert!(sins(&it).contains(&Sin::DoubleCommit), "{:?}", it.findings());
}

#[test]
fn only_what_nothing_relies_on_is_removed_and_only_of_a_pass_that_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut it = oracle(dir.path());
    let over = commit(1, 1);
    let open = WindowKey::new(Window::new(at(2), at(3)).expect("a window"), 0);
    let receipt = |key: WindowKey, what: &[u8]| {
        let (hash, manifest) = (protocol::ContentHash::of(what), protocol::ContentHash::of(b""));
        let partition = PartitionId::try_from(0).expect("a partition");
        names::receipt(key, partition, manifest, hash)
    };
    let (left_over, certified) = (receipt(over.key, b"left"), receipt(over.key, b"certified"));
    let not_yet = receipt(open, b"not yet");
    for key in [&left_over, &certified, &not_yet] {
        it.named.insert(key.clone(), "somebody".to_owned());
    }
    it.commits.insert(over.key, over);
    it.certified.insert(certified.clone());
    it.judge_removal(&left_over);
    it.judge_removal("_des/receipts/of/nobody");
    assert_eq!(sins(&it), [], "{:?}", it.findings());
    it.judge_removal(&certified);
    it.judge_removal(&not_yet);
    assert_eq!(sins(&it), [Sin::Wrong; 2], "{:?}", it.findings());
}

#[test]
fn a_receipt_before_its_shards_is_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut it = oracle(dir.path());
    let text = include_bytes!("../../../../protocol/fixtures/v1/receipt.json");
    let key = format!("round-1/{}/x/p.json", names::RECEIPTS);
    std::fs::create_dir_all(dir.path().join(&key).parent().expect("a folder")).expect("made");
    std::fs::write(dir.path().join(&key), text).expect("written");
    it.bucket.journal.wrote(&key);
    it.look(&News::default());
    assert!(it.findings().iter().any(|it| it.what.contains("was durable")), "{:?}", it.findings());
}
