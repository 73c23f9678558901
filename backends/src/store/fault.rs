//! What a store's failures mean to callers.

use std::error::Error as StdError;
use std::io::ErrorKind;

use object_store::client::HttpError;

use crate::error::{BackendError, Cause};
use crate::tls;

/// The meaning of a failure of the machine's own files.
pub(super) fn io_error(what: String, error: std::io::Error) -> BackendError {
    by_kind(error.kind(), what, error.into())
}

/// The meaning of a failure that the object store reports.
pub(super) fn store_error(what: String, error: object_store::Error) -> BackendError {
    use object_store::Error as E;
    // Only some of its calls turn a server's answer into a kind of error.
    match (&error, status(&error)) {
        (E::NotFound { .. } | E::Generic { .. }, _) if is_without_bucket(&error) => {
            let check = "the bucket is not there; check its name, the endpoint and the region";
            BackendError::Failed { what: format!("{what}: {check}"), cause: error.into() }
        }
        (E::NotFound { .. }, _) | (E::Generic { .. }, Some(404)) => {
            BackendError::NotFound { what: format!("{what}: it is not there") }
        }
        (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _)
        | (E::Generic { .. }, Some(401 | 403)) => {
            BackendError::Denied { what, cause: error.into() }
        }
        (E::AlreadyExists { .. } | E::Precondition { .. }, _) => {
            BackendError::Conflict { what: format!("{what}: {error}") }
        }
        // "Not implemented" is the one server error that waiting does not cure.
        (E::Generic { .. }, Some(501)) => BackendError::Failed { what, cause: error.into() },
        (E::Generic { .. }, _) => match io_kind(&error) {
            Some(kind) => by_kind(kind, what, spelled_out(&error)),
            None => {
                let cause = spelled_out(&error);
                let is_refused = tls::is_certificate_refused(&cause.to_string());
                let hint = if is_refused { format!("; {}", tls::BY_SYSTEM) } else { String::new() };
                BackendError::Unavailable { what: what + &hint, cause }
            }
        },
        (E::JoinError { .. }, _) => BackendError::Unavailable { what, cause: error.into() },
        _ => BackendError::Failed { what, cause: error.into() },
    }
}

/// The meaning of a failure to write. What is "not there" then is an upload in parts, ended already by
/// a request whose answer was lost, or aborted by the bucket's rules; or a directory that went. It
/// says nothing of an object that somebody looks for: writing again cures it.
pub(super) fn write_error(what: String, error: object_store::Error) -> BackendError {
    match store_error(what, error) {
        BackendError::NotFound { what } => BackendError::Unavailable {
            what,
            cause: "what was written into is gone; it is written again".into(),
        },
        other => other,
    }
}

/// Whether the whole bucket is missing, which says nothing about the object: it may have been made,
/// named or mounted wrong only now.
fn is_without_bucket(error: &object_store::Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Whether a failed read may be due to a range that the object does not have. Stores answer that
/// in several ways, so the caller has to look at the object's size to know.
pub(super) fn may_be_range(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
        && !chain(error).any(|cause| cause.is::<HttpError>() || cause.is::<std::io::Error>())
        && matches!(status(error), None | Some(416))
}

/// A full disk is waited out, since others make room; a path that is none is not.
fn by_kind(kind: ErrorKind, what: String, cause: Cause) -> BackendError {
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            BackendError::Denied { what, cause }
        }
        ErrorKind::Unsupported => BackendError::Failed { what, cause },
        _ => BackendError::Unavailable { what, cause },
    }
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The kind of the operating system's error behind a local store's. Failed connections have one
/// too, which says nothing about files.
fn io_kind(error: &object_store::Error) -> Option<ErrorKind> {
    if chain(error).any(|cause| cause.is::<HttpError>()) {
        return None;
    }
    chain(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}

/// The HTTP status behind an error. `object_store` tells it only in its text.
fn status(error: &object_store::Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("Server returned non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The error with its deepest reason, such as "connection refused", which HTTP clients keep to
/// themselves.
fn spelled_out(error: &object_store::Error) -> Cause {
    let text = error.to_string();
    match chain(error).last().map(ToString::to_string) {
        Some(reason) if !text.contains(&reason) => format!("{text}: {reason}").into(),
        _ => text.into(),
    }
}
