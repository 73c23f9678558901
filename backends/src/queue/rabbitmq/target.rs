//! Which broker, under which names, and what to say when it fails. Never shows the password.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::types::ShortString;
use lapin::uri::AMQPUri;

use super::RabbitSettings;
use crate::error::{BackendError, Result};
use crate::queue::Lane;
use crate::tls;

/// Interval of heartbeats, in seconds; the broker's is used where it is shorter. A peer that is
/// silent for two of them is given up.
const HEARTBEAT_SECONDS: u16 = 15;
/// The longest frame, in bytes: the client keeps two buffers of 32 frames for each connection.
/// A message's headers have to fit into one.
const FRAME_BYTES: u32 = 32 * 1024;
/// The longest prefix, in bytes: it begins names of at most 255.
const MAX_PREFIX_BYTES: usize = 128;

/// AMQP reply codes that we tell apart.
pub(super) mod code {
    /// No right, or no such user and password.
    pub(in super::super) const ACCESS_REFUSED: u16 = 403;
    /// No such queue or exchange.
    pub(in super::super) const NOT_FOUND: u16 = 404;
    /// It exists with other arguments.
    pub(in super::super) const PRECONDITION_FAILED: u16 = 406;
    /// No such vhost, or no right to it.
    pub(in super::super) const NOT_ALLOWED: u16 = 530;
}

/// Why a call to the broker failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The client or the broker said so.
    #[error(transparent)]
    Client(#[from] lapin::Error),
    /// There was no answer in time.
    #[error("no answer within {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The connection was given up meanwhile.
    #[error("the connection was lost")]
    Lost,
    /// The broker ended a consumer on a channel that it keeps.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// There is no connection; the reason.
    #[error("not connected ({0})")]
    Absent(String),
}

impl Trouble {
    /// The broker's reply code, when it gave one.
    pub(super) fn code(&self) -> Option<u16> {
        let Self::Client(error) = self else { return None };
        match error.kind() {
            ErrorKind::ProtocolError(error) => Some(error.get_id()),
            _ => None,
        }
    }
}

/// A broker, and the names of what is ours in it.
pub(super) struct Target {
    uri: AMQPUri,
    label: String,
    name: String,
    prefix: String,
}

impl Target {
    /// # Errors
    /// [`BackendError::Invalid`] for a URL or a prefix that cannot be right. The text holds
    /// nothing of the URL, which may hold a password in any place.
    pub(super) fn new(settings: RabbitSettings) -> Result<Self> {
        let RabbitSettings { url, prefix, name } = settings;
        let invalid = |what: &str| BackendError::Invalid { what: what.to_owned() };
        let authority = url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?']).next().unwrap_or_default();
        // The parser takes an IPv6 address for an absent host, and that for localhost.
        if authority.rsplit('@').next().is_some_and(|host| host.starts_with('[')) {
            return Err(invalid("broker.url: an IPv6 address is not supported; give a host name"));
        }
        let mut uri: AMQPUri = url.parse().map_err(|_| {
            invalid("broker.url is not of the form amqp[s]://user:password@host:port/vhost")
        })?;
        let of_ours = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let reserved = prefix.starts_with("amq.");
        if prefix.is_empty()
            || prefix.len() > MAX_PREFIX_BYTES
            || reserved
            || !prefix.chars().all(of_ours)
        {
            return Err(BackendError::Invalid {
                what: format!(
                    "broker.prefix {prefix:?}: 1 to {MAX_PREFIX_BYTES} letters, digits and -_.: \
                     are allowed, not beginning with \"amq.\""
                ),
            });
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.frame_max.get_or_insert(FRAME_BYTES);
        let vhost = uri.vhost.replace('%', "%25").replace('/', "%2f");
        let label = format!("{}:{}/{vhost}", uri.authority.host, uri.authority.port);
        Ok(Self { uri, label, name, prefix })
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    /// `host:port/vhost`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// What names begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Who we are, for people who look into the broker.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The exchange that routes to the durable queues by [`routing_key`].
    pub(super) fn exchange(&self) -> ShortString {
        short(&self.prefix)
    }

    /// The queue of a durable lane, or the exchange of [`Lane::Progress`].
    pub(super) fn lane(&self, lane: Lane) -> ShortString {
        short(&format!("{}.{}", self.prefix, routing_key(lane)))
    }

    /// A failure in our words; `action` is what could not be done.
    pub(super) fn error(&self, action: &str, trouble: Trouble) -> BackendError {
        let label = &self.label;
        let what = |hint: &str| format!("RabbitMQ at {label}: cannot {action}{hint}");
        match trouble.code() {
            Some(code::ACCESS_REFUSED) => BackendError::Denied {
                what: what("; check user, password and the user's permissions"),
                cause: trouble.into(),
            },
            Some(code::NOT_ALLOWED) => BackendError::Denied {
                what: what("; check the vhost in broker.url (%2f is the default one)"),
                cause: trouble.into(),
            },
            Some(code::PRECONDITION_FAILED) => BackendError::Invalid {
                what: format!(
                    "{}: {trouble}",
                    what("; delete what stands there under our names or set another broker.prefix")
                ),
            },
            _ => {
                let is_refused = tls::is_certificate_refused(&trouble.to_string());
                let hint = if is_refused { format!("; {}", tls::BY_SYSTEM) } else { String::new() };
                BackendError::Unavailable { what: what(&hint), cause: trouble.into() }
            }
        }
    }
}

/// What the exchange routes a lane's messages by.
pub(super) const fn routing_key(lane: Lane) -> &'static str {
    match lane {
        Lane::Tasks => "tasks",
        Lane::Outcomes => "outcomes",
        Lane::Dead => "dead",
        Lane::Progress => "progress",
    }
}

/// Text of which the length was checked before.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, prefix: &str) -> Result<Target> {
        let name = "worker-1".to_owned();
        Target::new(RabbitSettings { url: url.to_owned(), prefix: prefix.to_owned(), name })
    }

    #[test]
    fn the_label_names_host_port_and_vhost_and_nothing_else() {
        for (url, label) in [
            ("amqp://u:secret@broker:5673/%2f", "broker:5673/%2f"),
            ("amqp://u:secret@broker", "broker:5672/%2f"),
            ("amqps://u:secret@10.0.0.1/fleet", "10.0.0.1:5671/fleet"),
        ] {
            assert_eq!(target(url, "des").expect("it is right").label(), label);
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused_without_the_password() {
        for url in ["amqp:u:secret@h", "http://u:secret@h/", "secret", "amqp://u:secret@[::1]/"] {
            let Err(error) = target(url, "des") else { panic!("{url} was accepted") };
            assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for prefix in ["", "amq.des", "a b", "ł", &"x".repeat(129)] {
            assert!(target("amqp://h/%2f", prefix).is_err(), "{prefix:?} was accepted");
        }
    }
}
