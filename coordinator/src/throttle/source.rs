//! Asking the source database whether it is to be left alone.

use std::time::Duration;

use backends::Catalog;
use backends::catalog::LoadCheck;

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
    /// Why to wait; what cannot be asked is a reason.
    async fn ask(self, catalog: &dyn Catalog) -> Option<Reason> {
        let check = match self {
            Self::Query(query) => LoadCheck::Query(query),
            Self::ReplicationLag(_) => LoadCheck::ReplicationLag,
            Self::Connections(_) => LoadCheck::ActiveConnections,
        };
        let answer = match tokio::time::timeout(ANSWER_LIMIT, catalog.measure(check)).await {
            Ok(answer) => answer.map_err(|error| one_line(&error.to_string())),
            Err(_elapsed) => {
                Err(format!("the source database does not answer within {ANSWER_LIMIT:?}"))
            }
        };
        match (answer, self) {
            (Err(why), _) => Some(Reason::CannotTell { why }),
            (Ok(value), Self::Query(_)) => query_says(value),
            (Ok(seconds), Self::ReplicationLag(most)) => lag_says(seconds, most),
            (Ok(active), Self::Connections(most)) => connections_say(active, most),
        }
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
        if let Some(reason) = question.ask(catalog).await {
            return Some(reason);
        }
    }
    None
}

/// Why the source database cannot be asked one of these, if so.
pub(super) async fn cannot_ask(source: &SourceProtection, catalog: &dyn Catalog) -> Option<String> {
    for question in questions(source) {
        if let Some(Reason::CannotTell { why }) = question.ask(catalog).await {
            return Some(why);
        }
    }
    None
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
