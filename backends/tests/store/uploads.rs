//! What every store promises about files that are uploaded.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use backends::store::{AcceptAll, UploadCheck};
use backends::{BackendError, Store};
use futures::TryStreamExt;

const MIB: usize = 1024 * 1024;
/// Files are sent in parts of this size.
const PART: usize = 8 * MIB;

/// Bytes of which no two stretches look alike, so that parts in wrong places are noticed.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(content).expect("it is written");
    file.rewind().expect("it is rewound");
    file
}

async fn is_there(store: &Store, key: &str, expected: &[u8]) {
    let found = store.get(key, 64 * MIB as u64).await.expect("it is there");
    assert!(found == expected, "{key}: {} bytes of {}", found.len(), expected.len());
}

async fn is_not_there(store: &Store, key: &str) {
    assert_eq!(store.size(key).await.expect("the store answers"), None, "{key}");
    let listed: Vec<_> = store.list("").try_collect().await.expect("the store lists");
    assert_eq!(listed, [], "{key}");
}

/// Remembers what it saw, and says what it is told to say.
struct Witness {
    seen: Vec<u8>,
    verdict: Result<(), String>,
}

impl UploadCheck for Witness {
    fn see(&mut self, bytes: &[u8]) {
        self.seen.extend_from_slice(bytes);
    }

    fn verdict(&mut self) -> Result<(), String> {
        self.verdict.clone()
    }
}

pub(crate) async fn a_file_of_any_size_arrives(store: &Store) {
    for size in [0, 1, 100_000, PART - 1, PART, PART + 1, 2 * PART, 20 * MIB] {
        let content = content(size);
        let key = format!("files/{size}");
        let mut witness = Witness { seen: Vec::new(), verdict: Ok(()) };
        let uploaded = store.put_file(&key, file(&content), size as u64, &mut witness).await;
        uploaded.expect("it is uploaded");
        assert!(witness.seen == content, "{size}: what was checked is what was sent");
        is_there(store, &key, &content).await;
    }
}

pub(crate) async fn more_bytes_than_one_request_takes_arrive(store: &Store) {
    for size in [2 * PART, 2 * PART + 1, 20 * MIB] {
        let content = content(size);
        store.put("big", content.clone().into()).await.expect("it is written");
        is_there(store, "big", &content).await;
    }
}

pub(crate) async fn an_upload_begins_where_the_file_stands(store: &Store) {
    let mut file = file(b"0123456789");
    file.seek(SeekFrom::Start(3)).expect("it has ten bytes");
    store.put_file("middle", file, 4, &mut AcceptAll).await.expect("it is uploaded");
    is_there(store, "middle", b"3456").await;
}

pub(crate) async fn what_the_check_refuses_never_appears(store: &Store) {
    for size in [0, 1_000, PART, 20 * MIB] {
        let mut witness = Witness { seen: Vec::new(), verdict: Err("it changed".to_owned()) };
        let upload = store.put_file("refused", file(&content(size)), size as u64, &mut witness);
        let error = upload.await.expect_err("the check refuses it");
        assert!(matches!(error, BackendError::Invalid { .. }), "{size}: {error}");
        assert!(error.to_string().ends_with("it changed"), "{error}");
        assert_eq!(witness.seen.len(), size);
        is_not_there(store, "refused").await;
    }
}

pub(crate) async fn a_refused_upload_leaves_what_was_there(store: &Store) {
    store.put("kept", "before".into()).await.expect("it is written");
    for size in [1_000, 20 * MIB] {
        let mut witness = Witness { seen: Vec::new(), verdict: Err("no".to_owned()) };
        let upload = store.put_file("kept", file(&content(size)), size as u64, &mut witness);
        upload.await.expect_err("the check refuses it");
        is_there(store, "kept", b"before").await;
    }
    store.put_file("kept", file(b"after"), 5, &mut AcceptAll).await.expect("it is uploaded");
    is_there(store, "kept", b"after").await;
}

pub(crate) async fn a_file_that_is_too_short_never_appears(store: &Store) {
    for (has, stated) in [(0, 1), (999, 1_000), (PART, PART + 1), (17 * MIB, 20 * MIB)] {
        let mut accept = AcceptAll;
        let upload = store.put_file("short", file(&content(has)), stated as u64, &mut accept);
        let error = upload.await.expect_err("bytes are missing");
        // A file that shrank is not the store's trouble, so it must not look like it.
        assert!(matches!(error, BackendError::Invalid { .. }), "{has} of {stated}: {error}");
        is_not_there(store, "short").await;
    }
}
