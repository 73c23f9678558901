//! The section `throttle`: how much may be begun, and when.

use std::time::Duration;

use coordinator::throttle::{SourceProtection, ThrottleSettings};

use super::raw::{Lenient, RawThrottle, Size, Span};
use super::validate::Complaints;
use super::{ConfigError, DatabaseUrl};

/// How often the source database may be asked.
const CHECK_EVERY: Duration = Duration::from_secs(10);
const OFTENEST: Duration = Duration::from_secs(1);
const SELDOMEST: Duration = Duration::from_secs(3_600);

pub(super) fn throttle_settings(
    complain: &Complaints<'_>,
    raw: RawThrottle,
    catalog: Option<&DatabaseUrl>,
) -> Result<ThrottleSettings, ConfigError> {
    let positive = |key: &str, value: Option<u64>| {
        value.map(|value| complain.positive(&format!("throttle.{key}"), value)).transpose()
    };
    let files = raw.max_files_per_second.map(|Lenient(files)| files);
    let bytes = raw.max_bytes_per_second.map(|Size(bytes)| bytes);
    if let (Some(DatabaseUrl::Sqlite(_)), Some(key)) = (catalog, of_servers(&raw)) {
        let why = "a SQLite database has neither standbys nor connections; use throttle.query";
        return Err(complain.at(key, why));
    }
    let hours = raw
        .not_between
        .map(|text| text.parse().map_err(|why: String| complain.at("throttle.not_between", why)));
    if raw.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
        return Err(complain.at("throttle.query", "it is empty"));
    }
    let check_every = raw.check_every.map_or(CHECK_EVERY, |Span(every)| every);
    if !(OFTENEST..=SELDOMEST).contains(&check_every) {
        return Err(complain.at("throttle.check_every", "it must lie in 1s..1h"));
    }
    let connections = raw.max_active_connections.map(|Lenient(connections)| connections);
    Ok(ThrottleSettings {
        files_per_second: positive("max_files_per_second", files)?,
        bytes_per_second: positive("max_bytes_per_second", bytes)?,
        not_between: hours.transpose()?,
        source: SourceProtection {
            queries: raw.query.into_iter().collect(),
            max_replication_lag: raw.max_replication_lag.map(|Span(lag)| lag),
            max_active_connections: connections,
            check_every,
        },
    })
}

/// A key that only makes sense of a database server.
fn of_servers(raw: &RawThrottle) -> Option<&'static str> {
    let lag = raw.max_replication_lag.is_some().then_some("throttle.max_replication_lag");
    lag.or(raw.max_active_connections.is_some().then_some("throttle.max_active_connections"))
}
