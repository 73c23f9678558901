//! Asking the source database whether it is to be left alone.

use std::time::Duration;

use backends::catalog::LoadCheck;
use backends::{BackendError, Catalog};

use super::{Reason, SourceProtection};

/// How long it may take to answer one question.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// One of the things that the source database is asked.
#[derive(Clone, Copy)]
enum Question<'a> {
    Query(&'a str),
    ReplicationLag(Duration),
    Connections(u64),
}

impl Question<'_> {
    /// Why to wait, if so.
    async fn ask(self, catalog: &dyn Catalog) -> Result<Option<Reason>, BackendError> {
        let check = match self {
            Self::Query(query) => LoadCheck::Query(query),
            Self::ReplicationLag(_) => LoadCheck::ReplicationLag,
            Self::Connections(_) => LoadCheck::ActiveConnections,
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, catalog.measure(check)).await;
        let answer = answer.unwrap_or_else(|elapsed| {
            let what = format!("the source database does not answer within {ANSWER_LIMIT:?}");
            Err(BackendError::Unavailable { what, cause: elapsed.into() })
        })?;
        Ok(match self {
            Self::Query(query) => query_says(query, answer),
            Self::ReplicationLag(most) => lag_says(answer, most),
            Self::Connections(most) => connections_say(answer, most),
        })
    }
}

/// In the order in which they are asked.
fn questions(source: &SourceProtection) -> impl Iterator<Item = Question<'_>> {
    let queries = source.queries.iter().map(|query| Question::Query(query));
    queries
        .chain(source.max_replication_lag.map(Question::ReplicationLag))
        .chain(source.max_active_connections.map(Question::Connections))
}

/// The first reason of the source database to wait; what cannot be asked is one. `None`: there is none.
pub async fn ask_source(source: &SourceProtection, catalog: &dyn Catalog) -> Option<Reason> {
    for question in questions(source) {
        match question.ask(catalog).await {
            Ok(None) => {}
            Ok(Some(reason)) => return Some(reason),
            Err(error) => return Some(Reason::CannotTell { why: one_line(&error.to_string()) }),
        }
    }
    None
}

/// Asks all of it, whatever is answered.
///
/// # Errors
/// When something cannot be asked.
pub(super) async fn try_source(
    source: &SourceProtection,
    catalog: &dyn Catalog,
) -> Result<(), BackendError> {
    for question in questions(source) {
        question.ask(catalog).await?;
    }
    Ok(())
}

fn query_says(query: &str, value: f64) -> Option<Reason> {
    (value > 0.0).then(|| Reason::Query { query: one_line(query), value })
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
        let query = "SELECT\n1";
        assert_eq!((query_says(query, 0.0), query_says(query, -1.0)), (None, None));
        let told = query_says(query, 0.5).map(|reason| reason.to_string());
        assert_eq!(
            told.as_deref(),
            Some(
                "the throttle query on the source database answers 0.5, and more than 0 means wait: \
                 SELECT 1"
            )
        );
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
