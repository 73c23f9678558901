//! What a message may be, the same on every adapter: what RabbitMQ would answer by closing the
//! connection is refused before it is sent.

use super::OutgoingMessage;
use crate::error::{BackendError, Result};

/// The longest body, in bytes: RabbitMQ 4 refuses more unless it is configured otherwise.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// The longest message type, header name or other AMQP short string, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// The most headers. AMQP wants all of them in one frame: names and values at their longest take
/// 21 KB.
const MAX_HEADERS: usize = 16;
/// Header values are for people and are cut at this many bytes.
const MAX_HEADER_BYTES: usize = 1024;

/// Refuses a message that a broker would refuse.
///
/// # Errors
/// [`BackendError::Invalid`], with the limit.
pub(super) fn check(message: &OutgoingMessage) -> Result<()> {
    let kind = &message.kind;
    let refuse = |why: String| Err(BackendError::Invalid { what: format!("message: {why}") });
    if kind.len() > MAX_NAME_BYTES {
        return refuse(format!("its type is longer than {MAX_NAME_BYTES} bytes: {kind}"));
    }
    if message.body.len() > MAX_BODY_BYTES {
        let bytes = message.body.len();
        return refuse(format!("{kind} has {bytes} bytes; at most {MAX_BODY_BYTES} are sent"));
    }
    if message.headers.len() > MAX_HEADERS {
        let headers = message.headers.len();
        return refuse(format!("{kind} has {headers} headers; at most {MAX_HEADERS} are sent"));
    }
    match message.headers.iter().find(|(name, _)| name.len() > MAX_NAME_BYTES) {
        Some((name, _)) => {
            refuse(format!("{kind}: a header's name is longer than {MAX_NAME_BYTES} bytes: {name}"))
        }
        None => Ok(()),
    }
}

/// As much of a header's value as is sent: whole characters, at most [`MAX_HEADER_BYTES`].
pub(super) fn header_value(value: &str) -> &str {
    &value[..value.floor_char_boundary(MAX_HEADER_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, body: usize, headers: usize) -> OutgoingMessage {
        let headers = (0..headers).map(|n| (n.to_string(), String::new())).collect();
        OutgoingMessage { kind: kind.to_owned(), body: vec![0; body], headers }
    }

    #[test]
    fn what_fits_is_sent_and_one_more_is_not() {
        assert!(check(&message(&"k".repeat(255), MAX_BODY_BYTES, 16)).is_ok());
        for refused in [
            message(&"k".repeat(256), 0, 0),
            message("k", MAX_BODY_BYTES + 1, 0),
            message("k", 0, 17),
            OutgoingMessage {
                headers: vec![("h".repeat(256), String::new())],
                ..message("k", 0, 0)
            },
        ] {
            assert!(matches!(check(&refused), Err(BackendError::Invalid { .. })));
        }
    }

    #[test]
    fn a_long_header_is_cut_between_characters() {
        assert_eq!(header_value("short"), "short");
        let long = "ł".repeat(MAX_HEADER_BYTES);
        assert_eq!(header_value(&format!("x{long}")).len(), MAX_HEADER_BYTES - 1);
    }
}
