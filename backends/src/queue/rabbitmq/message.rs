//! A message's properties, as AMQP and people who look into the broker know them.

use std::time::{SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::target::short;
use crate::queue::{OutgoingMessage, limits};

/// On disk, as opposed to 1.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// Which program wrote the message.
const APP_ID: &str = "des";

/// The headers that are texts.
pub(super) fn texts(headers: &FieldTable) -> Vec<(String, String)> {
    let texts = headers.inner().iter().filter_map(|(name, value)| match value {
        AMQPValue::LongString(text) => Some((name.to_string(), text.to_string())),
        AMQPValue::ShortString(text) => Some((name.to_string(), text.to_string())),
        _ => None,
    });
    texts.collect()
}

/// Properties of a message that passed [`limits::check`].
pub(super) fn properties(message: &OutgoingMessage, id: &str, durable: bool) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        let value = LongString::from(limits::header_value(value));
        headers.insert(short(name), AMQPValue::LongString(value));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    BasicProperties::default()
        .with_content_type(short("application/json"))
        .with_delivery_mode(if durable { PERSISTENT } else { TRANSIENT })
        .with_headers(headers)
        .with_type(short(&message.kind))
        .with_message_id(short(id))
        .with_app_id(short(APP_ID))
        .with_timestamp(now.as_secs())
}
