//! What only a bucket can do to us.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use backends::store::{AcceptAll, S3Credentials};
use backends::{BackendError, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use s3s::HttpError;

use crate::places::settings;
use crate::s3_server::{Gate, S3Server, Setup};

/// What each call that needs an answer says about a store that does not give it.
async fn complaints(store: &Store) -> Vec<BackendError> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(20 * 1024 * 1024).expect("it grows");
    vec![
        store.check().await.expect_err("check"),
        store.check_writable().await.expect_err("check_writable"),
        store.put("key", "x".into()).await.expect_err("put"),
        store.create("key", "x".into()).await.expect_err("create"),
        store.put_file("key", file, 20 * 1024 * 1024, &mut AcceptAll).await.expect_err("put_file"),
        store.get("key", 10).await.expect_err("get"),
        store.get_range("key", 0..1).await.expect_err("get_range"),
        store.get_tail("key", 1).await.expect_err("get_tail"),
        store.size("key").await.expect_err("size"),
        store.list("").try_next().await.expect_err("list"),
        store.list_after("", "a").try_next().await.expect_err("list_after"),
        store.delete("key").await.expect_err("delete"),
    ]
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_not_told() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let wrong_secret = S3Credentials {
        access_key_id: server.access_key.clone(),
        secret_access_key: "wrong-hush".to_owned(),
    };
    let unknown_key = S3Credentials {
        access_key_id: "NOBODY".to_owned(),
        secret_access_key: server.secret_key.clone(),
    };
    for credentials in [wrong_secret, unknown_key] {
        let mut settings = settings(&server, "some/prefix");
        settings.credentials = Some(credentials.clone());
        let store = Store::s3(&settings).expect("the settings are good");
        for error in complaints(&store).await {
            assert!(matches!(error, BackendError::Denied { .. }), "{error}");
            let text = format!("{error} {error:?}");
            assert!(text.contains("s3://archive/some/prefix"), "{text}");
            assert!(text.contains(&server.endpoint), "{text}");
            assert!(!text.contains(&credentials.secret_access_key), "{text}");
        }
    }
    let good = Store::s3(&settings(&server, "")).expect("the settings are good");
    let listed: Vec<_> = good.list("").try_collect().await.expect("the store lists");
    assert_eq!(listed, []);
}

#[tokio::test]
async fn a_prefix_is_where_the_objects_lie_in_the_bucket() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let store = Store::s3(&settings(&server, "some/prefix")).expect("the settings are good");
    store.put("folder/key", "x".into()).await.expect("it is written");
    let file = server.bucket_dir.join("some/prefix/folder/key");
    assert_eq!(std::fs::read(file).expect("the server keeps objects as files"), b"x");
}

#[test]
fn settings_do_not_tell_their_secret() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let text = format!("{:?}", settings(&server, ""));
    assert!(text.contains(&server.access_key), "{text}");
    assert!(!text.contains(&server.secret_key), "{text}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let mut settings = settings(&server, "");
    settings.bucket = "elsewhere".to_owned();
    let store = Store::s3(&settings).expect("the settings are good");
    for error in [
        store.check().await.expect_err("the bucket is not there"),
        store.put("key", "x".into()).await.expect_err("the bucket is not there"),
        store.get("key", 10).await.expect_err("the bucket is not there"),
        store.list("a").try_next().await.expect_err("the bucket is not there"),
    ] {
        assert!(!error.is_lost_or_damaged(), "no object is gone: {error}");
        let text = error.to_string();
        assert!(text.contains("s3://elsewhere at"), "{text}");
        assert!(text.contains(&server.endpoint), "{text}");
        assert!(text.contains("the bucket is not there"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let mut server = S3Server::start(Setup::default()).expect("a server");
    // Nobody listens here any more.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    drop(listener);
    server.endpoint = format!("http://{address}");
    let store = Store::s3(&settings(&server, "")).expect("the settings are good");
    let before = Instant::now();
    let errors = complaints(&store).await;
    let each = before.elapsed() / 11;
    for error in errors {
        assert!(error.is_retryable(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&server.endpoint), "{text}");
        assert!(text.to_lowercase().contains("connection refused"), "{text}");
    }
    assert!(each.as_secs() < 20, "{each:?} until a refused connection is told");
}

/// The client asks for the end of an upload a second time, and the server knows the upload no more.
/// That is no word about the object, which whoever wrote it would take for lost.
#[tokio::test]
async fn an_upload_of_which_the_end_is_not_heard_is_no_lost_object() {
    let ends = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&ends);
    let gate: Gate = Arc::new(move |request, service| {
        let query = request.uri().query().unwrap_or_default();
        let is_end = *request.method() == hyper::Method::POST && query.contains("uploadId=");
        let is_first = is_end && seen.fetch_add(1, Ordering::Relaxed) == 0;
        Box::pin(async move {
            let answer = service.call(request).await;
            if is_first { Err(HttpError::new("the answer is lost".into())) } else { answer }
        })
    });
    let server = S3Server::start(Setup { gate: Some(gate), ..Setup::default() });
    let server = server.expect("a server");
    let store = Store::s3(&settings(&server, "")).expect("the settings are good");
    let bytes = Bytes::from(vec![7; 20 * 1024 * 1024]);
    let error = store.put("key", bytes.clone()).await.expect_err("the upload is gone");
    assert_eq!(ends.load(Ordering::Relaxed), 2, "it is asked again: {error}");
    assert!(error.is_retryable() && !error.is_lost_or_damaged(), "{error:?}");
    store.put("key", bytes.clone()).await.expect("it is written anew");
    assert!(store.get("key", bytes.len() as u64).await.expect("it is there") == bytes);
}

#[tokio::test]
async fn a_server_without_conditional_writes_says_so() {
    let setup = Setup { no_conditional_writes: true, ..Setup::default() };
    let server = S3Server::start(setup).expect("a server");
    let store = Store::s3(&settings(&server, "")).expect("the settings are good");
    let error = store.create("_des/archive.json", "{}".into()).await.expect_err("it cannot");
    assert!(matches!(error, BackendError::Failed { .. }), "{error}");
    store.put("_des/archive.json", "{}".into()).await.expect("it is written");
}

#[tokio::test]
async fn a_prefix_is_a_place_of_its_own() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let open = |prefix| Store::s3(&settings(&server, prefix)).expect("the settings are good");
    let (whole, one, two) = (open(""), open("jobs/one"), open("jobs/two"));
    one.put("a", "1".into()).await.expect("it is written");
    two.put("a", "22".into()).await.expect("it is written");
    assert_eq!(one.get("a", 10).await.expect("it is read"), "1");
    assert_eq!(whole.get("jobs/two/a", 10).await.expect("it is read"), "22");
    one.delete("a").await.expect("it is deleted");
    assert_eq!(two.size("a").await.expect("it answers"), Some(2));
    let listed: Vec<_> = whole.list("").try_collect().await.expect("the store lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, "jobs/two/a");
}

#[tokio::test]
async fn objects_are_written_in_their_storage_class() {
    let server = S3Server::start(Setup::default()).expect("a server");
    // The server knows this class, and not the other.
    for (class, known) in [("REDUCED_REDUNDANCY", true), ("BLUE", false)] {
        let mut settings = settings(&server, class);
        settings.storage_class = Some(class.to_owned());
        let store = Store::s3(&settings).expect("the settings are good");
        let put = store.put("put", "x".into()).await;
        let create = store.create("created", "x".into()).await.map(|_created| ());
        for written in [put, create] {
            match written {
                Ok(()) => assert!(known, "{class}"),
                Err(error) => {
                    assert!(!known, "{class}: {error}");
                    assert!(error.to_string().contains("InvalidStorageClass"), "{error}");
                }
            }
        }
    }
}

#[test]
fn encryption_that_nobody_knows_is_refused() {
    let server = S3Server::start(Setup::default()).expect("a server");
    let open = |encryption: &str, key: Option<&str>| {
        let mut settings = settings(&server, "");
        settings.server_side_encryption = Some(encryption.to_owned());
        settings.sse_kms_key_id = key.map(str::to_owned);
        Store::s3(&settings)
    };
    open("AES256", None).expect("S3's own keys");
    open("aws:kms", Some("alias/archive")).expect("a key of the customer");
    let error = open("rot13", None).expect_err("no such encryption");
    assert!(error.to_string().contains("rot13"), "{error}");
}

/// What requests say of encryption: the algorithm, and the key of the customer.
type Said = BTreeMap<&'static str, (Option<String>, Option<String>)>;

/// What each kind of request that writes says of encryption, of objects small and large.
async fn said_of_encryption(encryption: Option<&str>, key: Option<&str>) -> Said {
    let said = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&said);
    let gate: Gate = Arc::new(move |request, service| {
        let query = request.uri().query().unwrap_or_default();
        let named = |name: &str| query.split('&').any(|it| it.split('=').next() == Some(name));
        let kind = match request.method().as_str() {
            "PUT" if named("partNumber") => "UploadPart",
            "PUT" if request.headers().contains_key("if-none-match") => "PutObject, if new",
            "PUT" => "PutObject",
            "POST" if named("uploads") => "CreateMultipartUpload",
            "POST" => "CompleteMultipartUpload",
            _ => "reads",
        };
        let header = |name: &str| {
            let name = format!("x-amz-server-side-encryption{name}");
            let value = request.headers().get(name)?;
            Some(value.to_str().expect("a text").to_owned())
        };
        let about = (header(""), header("-aws-kms-key-id"));
        seen.lock().expect("nobody panicked").push((kind, about));
        Box::pin(async move { service.call(request).await })
    });
    let server = S3Server::start(Setup { gate: Some(gate), ..Setup::default() });
    let server = server.expect("a server");
    let mut settings = settings(&server, "");
    settings.server_side_encryption = encryption.map(str::to_owned);
    settings.sse_kms_key_id = key.map(str::to_owned);
    let store = Store::s3(&settings).expect("the settings are good");
    store.put("small", "x".into()).await.expect("it is written");
    store.create("new", "x".into()).await.expect("it is written");
    let large = Bytes::from(vec![7; 20 * 1024 * 1024]);
    store.put("large", large.clone()).await.expect("it is written");
    let read = store.get("large", large.len() as u64).await.expect("it is there");
    assert!(read == large);
    let mut of_kinds = Said::new();
    for (kind, about) in said.lock().expect("nobody panicked").drain(..) {
        let before = of_kinds.insert(kind, about.clone());
        assert!(before.is_none_or(|before| before == about), "{kind}: not always the same");
    }
    of_kinds
}

/// S3 takes these headers where an object begins, and refuses them elsewhere.
#[tokio::test]
async fn every_object_is_written_with_the_encryption_that_is_asked_for() {
    let key = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000";
    let cases = [
        (None, None, (None, None)),
        (Some("AES256"), None, (Some("AES256"), None)),
        (Some("aws:kms"), Some(key), (Some("aws:kms"), Some(key))),
        // A key alone, or beside the other algorithm, means that it is used.
        (None, Some(key), (Some("aws:kms"), Some(key))),
        (Some("AES256"), Some(key), (Some("aws:kms"), Some(key))),
    ];
    for (encryption, key, expected) in cases {
        let said = said_of_encryption(encryption, key).await;
        let owned = |(algorithm, key): (Option<&str>, Option<&str>)| {
            (algorithm.map(str::to_owned), key.map(str::to_owned))
        };
        let expected: Said = [
            ("PutObject", owned(expected)),
            ("PutObject, if new", owned(expected)),
            ("CreateMultipartUpload", owned(expected)),
            ("UploadPart", (None, None)),
            ("CompleteMultipartUpload", (None, None)),
            ("reads", (None, None)),
        ]
        .into();
        assert_eq!(said, expected, "{encryption:?} and {key:?}");
    }
}
