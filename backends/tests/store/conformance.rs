//! What every store promises.

use std::collections::BTreeSet;

use backends::store::ListedObject;
use backends::{BackendError, Store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

const LIMIT: u64 = 1024 * 1024;

async fn put(store: &Store, key: &str, bytes: impl Into<Bytes>) {
    store.put(key, bytes.into()).await.expect("it is written");
}

async fn get(store: &Store, key: &str) -> Bytes {
    store.get(key, LIMIT).await.expect("it is read")
}

/// The names and sizes of a listing, in order, since stores promise none.
async fn names(
    listing: impl stream::Stream<Item = Result<ListedObject, BackendError>>,
) -> Vec<(String, u64)> {
    let mut found: Vec<_> = listing
        .map_ok(|object| (object.key, object.size))
        .try_collect()
        .await
        .expect("the store lists");
    found.sort();
    found
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(key, size)| ((*key).to_owned(), *size)).collect()
}

pub(crate) async fn what_is_put_is_read_back(store: &Store) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let shard = "2024-12-01_a7_20241202T000000Z_r0000_0001-0123456789abcdef.des";
    for (key, bytes) in [
        ("_des/archive.json", &b"{}"[..]),
        (shard, &every_byte),
        ("_des/receipts/20241202T000000Z-r0/p000001-ab-cd.json", b"x"),
        ("nothing in it", b""),
    ] {
        put(store, key, Bytes::copy_from_slice(bytes)).await;
        assert_eq!(get(store, key).await, bytes, "{key}");
        assert_eq!(store.size(key).await.expect("it answers"), Some(bytes.len() as u64), "{key}");
    }
}

pub(crate) async fn what_is_put_again_replaces_what_was_there(store: &Store) {
    put(store, "a/b", "the first, longer").await;
    put(store, "a/b", "the second").await;
    assert_eq!(get(store, "a/b").await, "the second");
    put(store, "a/b", "the second").await;
    assert_eq!(get(store, "a/b").await, "the second");
    assert_eq!(names(store.list("")).await, pairs(&[("a/b", 10)]));
}

pub(crate) async fn asking_whether_one_may_write_leaves_nothing(store: &Store) {
    store.check_writable().await.expect("one may");
    assert_eq!(names(store.list("")).await, pairs(&[]));
    put(store, "a", "1").await;
    store.check_writable().await.expect("one may");
    assert_eq!(names(store.list("")).await, pairs(&[("a", 1)]));
}

pub(crate) async fn a_read_keeps_to_its_limit(store: &Store) {
    put(store, "ten", "0123456789").await;
    assert_eq!(store.get("ten", 10).await.expect("ten are ten"), "0123456789");
    let error = store.get("ten", 9).await.expect_err("ten are more than nine");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("10 bytes"), "{error}");
}

pub(crate) async fn an_object_is_created_once(store: &Store) {
    let key = "_des/archive.json";
    assert!(store.create(key, "mine".into()).await.expect("it is made"));
    assert!(!store.create(key, "yours".into()).await.expect("it is there"));
    assert!(!store.create(key, "mine".into()).await.expect("it is there"));
    assert_eq!(get(store, key).await, "mine");
    assert_eq!(names(store.list("")).await, pairs(&[(key, 4)]));
}

pub(crate) async fn of_many_creators_one_succeeds(store: &Store) {
    let attempts = (0..20).map(|number| async move {
        let mine = format!("made by {number}");
        let made = store.create("_des/archive.json", mine.clone().into()).await;
        made.expect("it is there afterwards").then_some(mine)
    });
    let made: Vec<_> = futures::future::join_all(attempts).await.into_iter().flatten().collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(get(store, "_des/archive.json").await, made[0]);
}

pub(crate) async fn a_range_is_read_exactly_or_not_at_all(store: &Store) {
    put(store, "ten", "0123456789").await;
    put(store, "empty", "").await;
    for (range, expected) in [(0..10, "0123456789"), (0..1, "0"), (3..7, "3456"), (9..10, "9")] {
        let bytes = store.get_range("ten", range.clone()).await;
        assert_eq!(bytes.expect("it lies inside"), expected, "{range:?}");
    }
    assert_eq!(store.get_range("ten", 4..4).await.expect("nothing is there"), "");
    for (key, range) in
        [("ten", 9..11), ("ten", 0..11), ("ten", 10..11), ("ten", 90..99), ("empty", 0..1)]
    {
        let error = store.get_range(key, range.clone()).await.expect_err("it lies outside");
        assert!(matches!(error, BackendError::Invalid { .. }), "{key} {range:?}: {error}");
    }
}

pub(crate) async fn the_tail_is_as_long_as_the_object_allows(store: &Store) {
    put(store, "ten", "0123456789").await;
    put(store, "empty", "").await;
    for (count, expected) in [(1, "9"), (4, "6789"), (10, "0123456789"), (4096, "0123456789")] {
        let (size, bytes) = store.get_tail("ten", count).await.expect("it is read");
        assert_eq!((size, &bytes[..]), (10, expected.as_bytes()), "{count}");
    }
    assert_eq!(store.get_tail("empty", 4096).await.expect("it is read"), (0, Bytes::new()));
}

pub(crate) async fn what_is_missing_is_not_found(store: &Store) {
    put(store, "folder/there", "x").await;
    for key in ["missing", "folder/missing", "folder", "no/folder/at/all"] {
        assert_eq!(store.size(key).await.expect("it answers"), None, "{key}");
        for error in [
            store.get(key, LIMIT).await.expect_err("it is not there"),
            store.get_range(key, 0..1).await.expect_err("it is not there"),
            store.get_tail(key, 1).await.expect_err("it is not there"),
        ] {
            assert!(error.is_not_found(), "{key}: {error}");
            assert!(error.to_string().contains(key), "{error}");
            assert!(error.to_string().contains(&store.to_string()), "{error}");
        }
    }
}

pub(crate) async fn a_folder_lists_what_lies_below_it(store: &Store) {
    assert_eq!(names(store.list("")).await, []);
    for key in ["_des/a/1", "_des/a/2/3", "_des/ab/4", "_des/archive.json", "top.des"] {
        put(store, key, "12345").await;
    }
    put(store, "_des/a/empty", "").await;
    assert_eq!(
        names(store.list("_des/a")).await,
        pairs(&[("_des/a/1", 5), ("_des/a/2/3", 5), ("_des/a/empty", 0)])
    );
    assert_eq!(names(store.list("_des/ab")).await, pairs(&[("_des/ab/4", 5)]));
    assert_eq!(names(store.list("_des")).await.len(), 5);
    assert_eq!(names(store.list("")).await.len(), 6);
    for folder in ["missing", "_des/archive.json", "top.des", "_des/a/2/3", "des"] {
        assert_eq!(names(store.list(folder)).await, [], "{folder}");
    }
}

pub(crate) async fn a_listing_says_when_an_object_was_written(store: &Store) {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = || i64::try_from(now().expect("after 1970").as_micros()).expect("a time");
    // Stores keep whole seconds.
    let before = now() - 1_000_000;
    put(store, "_des/a", "1").await;
    let found: Vec<ListedObject> = store.list("_des").try_collect().await.expect("it lists");
    let written = found[0].modified.as_micros();
    assert!((before..=now()).contains(&written), "{before} {written}");
}

pub(crate) async fn a_listing_starts_after_a_name(store: &Store) {
    for key in ["_des/c/1", "_des/c/2", "_des/c/3", "_des/d/1", "_des/b/9", "2024-01-01_00"] {
        put(store, key, "x").await;
    }
    let after = async |folder, name| {
        let found = names(store.list_after(folder, name)).await;
        found.into_iter().map(|(key, _size)| key).collect::<Vec<_>>()
    };
    assert_eq!(after("_des/c", "_des/c/1").await, ["_des/c/2", "_des/c/3"]);
    assert_eq!(after("_des/c", "_des/c/15").await, ["_des/c/2", "_des/c/3"]);
    assert_eq!(after("_des/c", "_des/c/0").await, ["_des/c/1", "_des/c/2", "_des/c/3"]);
    assert_eq!(after("_des/c", "_des/b").await, ["_des/c/1", "_des/c/2", "_des/c/3"]);
    assert_eq!(after("_des/c", "_des/c/3").await, [""; 0]);
    assert_eq!(after("_des/c", "_des/d").await, [""; 0]);
    assert_eq!(after("", "_des/c/3").await, ["_des/d/1"]);
    assert_eq!(after("", "2024-01-01_").await.len(), 6);
    assert_eq!(after("", "2024-01-01_00").await.len(), 5);
}

pub(crate) async fn what_is_deleted_is_gone_and_may_be_deleted_again(store: &Store) {
    put(store, "a/1", "x").await;
    put(store, "a/2", "x").await;
    for _once_and_again in 0..2 {
        store.delete("a/1").await.expect("it is gone");
        assert_eq!(store.size("a/1").await.expect("it answers"), None);
        assert_eq!(names(store.list("")).await, pairs(&[("a/2", 1)]));
    }
    store.delete("never/was").await.expect("it is not there");
    put(store, "a/1", "back").await;
    assert_eq!(get(store, "a/1").await, "back");
}

/// More than S3 lists on one page.
pub(crate) async fn many_write_at_once_and_a_listing_has_them_all(store: &Store) {
    let keys: Vec<String> = (0..1_100).map(|number| format!("many/{number:05}")).collect();
    stream::iter(&keys)
        .for_each_concurrent(250, |key| async move { put(store, key, key.clone()).await })
        .await;
    let found: BTreeSet<_> = names(store.list("many")).await.into_iter().map(|it| it.0).collect();
    assert!(found.iter().eq(&keys), "{} of {}", found.len(), keys.len());
    let found = names(store.list_after("many", "many/00049")).await;
    assert_eq!(found.len(), 1_050);
    stream::iter(&keys)
        .for_each_concurrent(250, |key| async move { assert_eq!(get(store, key).await, key) })
        .await;
}

pub(crate) async fn a_store_that_works_passes_its_check(store: &Store) {
    store.check().await.expect("an empty store works");
    put(store, "_des/archive.json", "{}").await;
    store.check().await.expect("a used store works");
    store.flush().await.expect("what was written is safe");
}
