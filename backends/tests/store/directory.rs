//! What only a directory can do to us.

use std::path::Path;

use backends::store::{AcceptAll, UploadCheck};
use backends::{BackendError, Store};
use futures::TryStreamExt;
use tempfile::TempDir;

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("it is readable").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

fn large_file() -> (std::fs::File, u64) {
    let file = tempfile::tempfile().expect("a file");
    let size = 20 * 1024 * 1024;
    file.set_len(size).expect("it grows");
    (file, size)
}

struct Never;

impl UploadCheck for Never {
    fn see(&mut self, _bytes: &[u8]) {}
    fn verdict(&mut self) -> Result<(), String> {
        Err("never".to_owned())
    }
}

#[tokio::test]
async fn an_upload_that_fails_leaves_no_file_behind() {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("a store");
    let (file, size) = large_file();
    store.put_file("a/refused", file, size, &mut Never).await.expect_err("it is refused");
    let (file, size) = large_file();
    store.put_file("a/short", file, size + 1, &mut AcceptAll).await.expect_err("it is short");
    assert_eq!(files_below(directory.path()), [""; 0]);
}

/// When the power fails, a name may be on the disk before its bytes are.
#[tokio::test]
async fn what_lies_torn_under_a_name_of_its_content_is_written_again() {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("a store");
    let whole = b"whole".as_slice();
    let key = format!("part-{}.des", protocol::ContentHash::of(whole));
    for torn in [b"".as_slice(), b"w\0\0\0\0"] {
        std::fs::write(directory.path().join(&key), torn).expect("it is written");
        store.put(&key, whole.into()).await.expect("it is written again");
        assert_eq!(store.get(&key, 100).await.expect("it is there"), whole);
    }
    assert_eq!(files_below(directory.path()).len(), 1, "no staging file is left");
}

/// A killed writer leaves such files.
#[tokio::test]
async fn half_written_files_are_not_listed_and_not_in_the_way() {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("a store");
    store.put("a/shard", "whole".into()).await.expect("it is written");
    std::fs::write(directory.path().join("a/shard#1"), "half").expect("it is written");
    std::fs::write(directory.path().join("a/other#1"), "half").expect("it is written");
    store.put("a/other", "whole".into()).await.expect("it is written");
    let listed: Vec<_> =
        store.list("").map_ok(|object| object.key).try_collect().await.expect("the store lists");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.iter().all(|key| !key.contains('#')), "{listed:?}");
    assert_eq!(store.size("a/other").await.expect("it answers"), Some(5));
}

#[tokio::test]
async fn a_directory_may_have_any_name() {
    let parent = TempDir::new().expect("a directory");
    let root = parent.path().join("Łódź 100% #1 [x] ~ ?");
    let store = Store::directory(&root).expect("it is made");
    store.put("a/b", "x".into()).await.expect("it is written");
    assert_eq!(std::fs::read(root.join("a/b")).expect("it lies there"), b"x");
    let listed: Vec<_> = store.list("").try_collect().await.expect("the store lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, "a/b");
    store.flush().await.expect("it is synced");
}

#[tokio::test]
async fn a_file_is_no_store() {
    let parent = TempDir::new().expect("a directory");
    let path = parent.path().join("file");
    std::fs::write(&path, "x").expect("it is written");
    let error = Store::directory(&path).expect_err("it is a file");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    let error = Store::directory(&path.join("below")).expect_err("it lies below a file");
    assert!(matches!(error, BackendError::Denied { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_be_is_refused_for_good() {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("a store");
    store.put("file", "x".into()).await.expect("it is written");
    let (file, size) = large_file();
    for error in [
        store.put("file/below", "x".into()).await.expect_err("a file has no files"),
        store.create("file/below", "x".into()).await.expect_err("a file has no files"),
        store.put_file("file/below", file, size, &mut AcceptAll).await.expect_err("nor big ones"),
    ] {
        assert!(matches!(error, BackendError::Denied { .. }), "{error}");
        assert!(error.to_string().contains("Not a directory"), "{error}");
        assert!(error.to_string().contains("file/below"), "{error}");
    }
    assert_eq!(files_below(directory.path()).len(), 1);
}

#[tokio::test]
async fn a_directory_that_went_away_does_not_pass_its_check() {
    let parent = TempDir::new().expect("a directory");
    let root = parent.path().join("store");
    let store = Store::directory(&root).expect("it is made");
    store.check().await.expect("it is there");
    std::fs::remove_dir(&root).expect("it is empty");
    let error = store.check().await.expect_err("it is gone");
    assert!(error.to_string().contains(&root.display().to_string()), "{error}");
    assert!(error.is_retryable(), "it may be mounted again: {error}");
    store.flush().await.expect_err("there is nothing to sync");
}

/// What killed writers leave is found, and nothing else can be removed by that way.
#[tokio::test]
async fn staging_files_are_found_and_removed() {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("a store");
    store.put("a/shard", "whole".into()).await.expect("it is written");
    store.put("a/odd#name", "whole".into()).await.expect("it is written");
    for name in ["a/shard#1", "a/other#12", "top#3"] {
        std::fs::write(directory.path().join(name), "half").expect("it is written");
    }
    std::os::unix::fs::symlink(directory.path(), directory.path().join("loop")).expect("a link");
    let mut found: Vec<_> = store.staging_files().try_collect().await.expect("it lists");
    found.sort_by(|a, b| a.key.cmp(&b.key));
    let keys: Vec<_> = found.iter().map(|file| (file.key.as_str(), file.size)).collect();
    assert_eq!(keys, [("a/other#12", 4), ("a/shard#1", 4), ("top#3", 4)]);
    for file in &found {
        store.remove_staging_file(&file.key).await.expect("it is removed");
        store.remove_staging_file(&file.key).await.expect("it is not there any more");
    }
    let left: Vec<_> = store.staging_files().try_collect().await.expect("it lists");
    assert_eq!(left, []);
    let error = store.remove_staging_file("a/shard").await.expect_err("it is an object");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
    assert_eq!(store.get("a/shard", 9).await.expect("it is there"), "whole");
    let memory = Store::memory().staging_files().try_collect::<Vec<_>>().await;
    assert_eq!(memory.expect("none"), []);
}
