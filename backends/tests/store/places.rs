//! The stores that the suite runs on, each new, empty and gone at the end.

use backends::Store;
use backends::store::{S3Credentials, S3Settings};
use tempfile::TempDir;

use crate::s3_server::{S3Server, Setup};

/// A store, and what has to stay while it is used.
pub(crate) struct Place {
    pub(crate) store: Store,
    _behind: Behind,
}

enum Behind {
    Nothing,
    Directory { _directory: TempDir },
    Server { _server: S3Server },
}

pub(crate) fn memory() -> Place {
    Place { store: Store::memory(), _behind: Behind::Nothing }
}

pub(crate) fn directory() -> Place {
    let directory = TempDir::new().expect("a directory");
    let store = Store::directory(directory.path()).expect("the directory is a store");
    Place { store, _behind: Behind::Directory { _directory: directory } }
}

pub(crate) fn s3() -> Place {
    bucket("")
}

pub(crate) fn s3_with_prefix() -> Place {
    bucket("old files/2024")
}

fn bucket(prefix: &str) -> Place {
    let server = S3Server::start(Setup::default()).expect("a server");
    let store = Store::s3(&settings(&server, prefix)).expect("the settings are good");
    Place { store, _behind: Behind::Server { _server: server } }
}

/// How a server's bucket is reached.
pub(crate) fn settings(server: &S3Server, prefix: &str) -> S3Settings {
    S3Settings {
        bucket: server.bucket.clone(),
        prefix: prefix.to_owned(),
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        path_style: true,
        storage_class: None,
        server_side_encryption: None,
        sse_kms_key_id: None,
        credentials: Some(S3Credentials {
            access_key_id: server.access_key.clone(),
            secret_access_key: server.secret_key.clone(),
        }),
    }
}
