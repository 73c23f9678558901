//! The configuration file as it is written, before anything is checked.
//!
//! Every key is optional here; what is required, and what fits together, is decided in one place,
//! [`super::validate`]. Texts are taken for numbers, since `${VAR}` makes texts of everything.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, de};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawConfig {
    pub(crate) job: Option<String>,
    pub(crate) database: RawDatabase,
    pub(crate) packer: RawPacker,
    pub(crate) watermark: RawWatermark,
    pub(crate) metrics: RawMetrics,
    pub(crate) broker: Option<RawBroker>,
    pub(crate) store: Option<RawStore>,
    pub(crate) source: RawSource,
    pub(crate) worker: RawWorker,
    pub(crate) coordinator: RawCoordinator,
    pub(crate) throttle: RawThrottle,
    pub(crate) http: RawHttp,
    pub(crate) tracing: RawTracing,
    pub(crate) sync_archived: Option<RawSyncArchived>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawDatabase {
    pub(crate) url: Option<Secret>,
    pub(crate) table_name: Option<String>,
    pub(crate) uid_column: Option<String>,
    pub(crate) created_at_column: Option<String>,
    pub(crate) location_column: Option<String>,
    pub(crate) size_column: Option<String>,
    pub(crate) lag_days: Option<Lenient<i64>>,
    pub(crate) page_size: Option<Lenient<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawPacker {
    pub(crate) output_dir: Option<String>,
    pub(crate) max_shard_size: Option<Size>,
    pub(crate) big_file_threshold: Option<Size>,
    pub(crate) n_bits: Option<Lenient<i64>>,
    pub(crate) compression: RawCompression,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawCompression {
    pub(crate) enabled: Option<Lenient<bool>>,
    pub(crate) codec: Option<String>,
    pub(crate) level: Option<Lenient<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawWatermark {
    pub(crate) config_db_url: Option<Secret>,
    pub(crate) config_id: Option<Lenient<i32>>,
    pub(crate) default_archived_until: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawMetrics {
    pub(crate) enabled: Option<Lenient<bool>>,
    pub(crate) port: Option<Lenient<u16>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawBroker {
    pub(crate) url: Option<Secret>,
    pub(crate) prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawStore {
    pub(crate) url: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: Option<Lenient<bool>>,
    pub(crate) storage_class: Option<String>,
    pub(crate) server_side_encryption: Option<String>,
    pub(crate) sse_kms_key_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawSource {
    pub(crate) roots: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawWorker {
    pub(crate) slots: Option<Lenient<u16>>,
    pub(crate) memory: Option<Size>,
    pub(crate) readers: Option<Lenient<u16>>,
    pub(crate) share: Option<Lenient<u16>>,
    pub(crate) spool_dir: Option<String>,
    pub(crate) drain_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawCoordinator {
    pub(crate) window_span: Option<Span>,
    pub(crate) windows_in_flight: Option<Lenient<u16>>,
    pub(crate) partition_rows: Option<Lenient<u64>>,
    pub(crate) partition_seconds: Option<Lenient<u64>>,
    pub(crate) sort_memory: Option<Size>,
    pub(crate) spool_dir: Option<String>,
    pub(crate) lease_ttl: Option<Span>,
    pub(crate) max_failed_ratio: Option<Lenient<f64>>,
    pub(crate) max_failed_files: Option<Lenient<u64>>,
    pub(crate) max_attempts: Option<Lenient<u32>>,
    pub(crate) recheck_after: Option<Span>,
    pub(crate) gc_grace: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawThrottle {
    pub(crate) max_files_per_second: Option<Lenient<u64>>,
    pub(crate) max_bytes_per_second: Option<Size>,
    pub(crate) not_between: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) max_replication_lag: Option<Span>,
    pub(crate) max_active_connections: Option<Lenient<u64>>,
    pub(crate) check_every: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawHttp {
    pub(crate) listen: Option<Lenient<String>>,
    pub(crate) admin_token: Option<Secret>,
    pub(crate) allowed_hosts: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTracing {
    pub(crate) otlp_endpoint: Option<Secret>,
    pub(crate) sample_ratio: Option<Lenient<f64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawSyncArchived {
    pub(crate) url: Option<Secret>,
    pub(crate) column: Option<String>,
    pub(crate) value: Option<Lenient<String>>,
    pub(crate) batch_rows: Option<Lenient<u64>>,
    pub(crate) max_rows_per_second: Option<Lenient<u64>>,
    pub(crate) every: Option<Span>,
}

/// A text that may hold a password, and does not print it.
#[derive(Clone, Deserialize)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A number or a truth value, also where it is written as a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lenient<T>(pub(crate) T);

impl<'de, T> Deserialize<'de> for Lenient<T>
where
    T: FromStr,
    T::Err: Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = scalar(deserializer)?;
        text.trim().parse().map(Lenient).map_err(|error| {
            let kind = std::any::type_name::<T>();
            D::Error::custom(format!("`{text}` is not a value of type {kind}: {error}"))
        })
    }
}

/// A number of bytes: a number, or a text such as `192MiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = scalar(deserializer)?;
        text.trim().parse::<bytesize::ByteSize>().map(|size| Self(size.as_u64())).map_err(|error| {
            D::Error::custom(format!(
                "`{text}` is not a size ({error}): use a number of bytes, or one with a unit, \
                 such as 192MiB"
            ))
        })
    }
}

/// A length of time: a number of seconds, or a text such as `15s`, `5m` or `1d`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub(crate) std::time::Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = scalar(deserializer)?;
        let text = text.trim();
        if let Ok(seconds) = text.parse::<u64>() {
            return Ok(Self(std::time::Duration::from_secs(seconds)));
        }
        humantime::parse_duration(text).map(Self).map_err(|error| {
            D::Error::custom(format!(
                "`{text}` is not a length of time ({error}): use seconds, or a number with a \
                 unit, such as 15s, 5m or 1d"
            ))
        })
    }
}

/// A scalar as text, whatever YAML took it for.
fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a single value")
        }
        fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_f64<E: de::Error>(self, value: f64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }
    }
    deserializer.deserialize_any(Text)
}
