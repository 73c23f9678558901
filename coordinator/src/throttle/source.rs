//! Asking the source database whether it is to be left alone.

use std::time::Duration;

use backends::Catalog;
use backends::catalog::LoadCheck;

use super::{Reason, SourceProtection};

/// How long it may take to answer one question.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The first reason of the source database to wait; what cannot be asked is one. `None`: there is none.
pub async fn ask_source(source: &SourceProtection, catalog: &dyn Catalog) -> Option<Reason> {
    let measure =
        async |check| match tokio::time::timeout(ANSWER_LIMIT, catalog.measure(check)).await {
            Ok(answer) => {
                answer.map_err(|error| Reason::CannotTell { why: one_line(&error.to_string()) })
            }
            Err(_elapsed) => {
                let why = format!("the source database does not answer within {ANSWER_LIMIT:?}");
                Err(Reason::CannotTell { why })
            }
        };
    if let Some(query) = &source.query {
        match measure(LoadCheck::Query(query)).await.map(query_says) {
            Ok(None) => {}
            Ok(Some(reason)) | Err(reason) => return Some(reason),
        }
    }
    if let Some(most) = source.max_replication_lag {
        match measure(LoadCheck::ReplicationLag).await.map(|lag| lag_says(lag, most)) {
            Ok(None) => {}
            Ok(Some(reason)) | Err(reason) => return Some(reason),
        }
    }
    let most = source.max_active_connections?;
    match measure(LoadCheck::ActiveConnections).await.map(|it| connections_say(it, most)) {
        Ok(reason) => reason,
        Err(reason) => Some(reason),
    }
}

fn query_says(value: f64) -> Option<Reason> {
    (value > 0.0).then_some(Reason::Query { value })
}

fn lag_says(seconds: f64, most: Duration) -> Option<Reason> {
    (seconds > most.as_secs_f64()).then_some(Reason::ReplicationLag { seconds, most })
}

#[expect(clippy::cast_precision_loss, reason = "connections are far fewer")]
fn connections_say(active: f64, most: u64) -> Option<Reason> {
    (active > most as f64).then_some(Reason::Connections { active, most })
}

/// What a database says, whose messages may have several lines.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_wait_beyond_its_limit() {
        assert_eq!((query_says(0.0), query_says(-1.0)), (None, None));
        assert_eq!(query_says(0.5), Some(Reason::Query { value: 0.5 }));
        let most = Duration::from_secs(30);
        assert_eq!(lag_says(30.0, most), None);
        let told = lag_says(30.25, most).map(|reason| reason.to_string());
        assert_eq!(
            told.as_deref(),
            Some(
                "replication from the source database is 30.2 s behind, more than \
                 max_replication_lag allows (30 s)"
            )
        );
        assert_eq!(connections_say(80.0, 80), None);
        assert_eq!(connections_say(81.0, 80).map(|it| it.kind()), Some("active_connections"));
    }
}
