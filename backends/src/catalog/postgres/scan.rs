//! Reading one window: one COPY, decoded as it arrives.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, ReadyChunks, StreamExt};
use protocol::{Row, RowRef, Timestamp, Window};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::catalog::batch::{Batches, ReceiverGone, RowBatch};
use crate::error::{BackendError, Result};

use super::copy_format::{Decoder, Malformed, Tuple};
use super::server::{Server, Watch};
use super::table::{Table, TimeType};

/// For the server to end a COPY that was cancelled.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);
/// PostgreSQL counts from 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The server sends each row as a chunk of its own. As many as have arrived are taken at once, at
/// most this many: a wait for each, under a watch and beside another, costs more than its row.
const CHUNKS_AT_ONCE: usize = 256;

type Chunks<'a> = ReadyChunks<BoxStream<'a, sqlx::Result<Bytes>>>;

pub(super) async fn scan(
    server: &Server,
    table: &Table,
    window: Window,
    sender: mpsc::Sender<RowBatch>,
) -> Result<()> {
    let time = table.time_type()?;
    let action = format!("reading the rows of {} in {window}", table.name);
    let mut session = server.session().await?;
    let (connection, watch) = session.parts();
    let sql = table.scan_sql(time, window);
    let reading = Reading { server, table, time, watch, action: &action };
    let opened = {
        // The server announces the COPY together with its first row, which may be long in coming.
        let mut opening = pin!(watch.over(&action, connection.copy_out_raw(&sql)));
        tokio::select! {
            biased;
            opened = &mut opening => opened?,
            () = sender.closed() => {
                watch.cancel().await;
                let _ = timeout(CANCEL_LIMIT, opening).await;
                return Ok(());
            }
        }
    };
    let opened = opened.map_err(|error| server.failed(&action, error))?;
    let mut chunks = opened.ready_chunks(CHUNKS_AT_ONCE);
    let outcome = reading.run(&mut chunks, sender).await;
    let ended = matches!(outcome, Ok(ControlFlow::Continue(()))) || stop(watch, &mut chunks).await;
    drop(chunks);
    if ended {
        session.close().await;
    }
    outcome.map(|_| ())
}

/// Cancels the COPY and waits until the server says that it has ended, for its transaction is over
/// then. False when it does not say so in time.
async fn stop(watch: Watch<'_>, chunks: &mut Chunks<'_>) -> bool {
    watch.cancel().await;
    let drained = async {
        while let Some(arrived) = chunks.next().await {
            if arrived.iter().any(|chunk| chunk.is_err()) {
                break;
            }
        }
    };
    timeout(CANCEL_LIMIT, drained).await.is_ok()
}

struct Reading<'a> {
    server: &'a Server,
    table: &'a Table,
    time: TimeType,
    watch: Watch<'a>,
    action: &'a str,
}

impl Reading<'_> {
    /// Reads to the end, or until the receiver is gone ([`ControlFlow::Break`]).
    async fn run(
        &self,
        chunks: &mut Chunks<'_>,
        sender: mpsc::Sender<RowBatch>,
    ) -> Result<ControlFlow<()>> {
        let fields = self.table.columns().count();
        let mut decoder = Decoder::new(fields);
        let mut batches = Batches::new(sender.clone());
        let mut closed = pin!(sender.closed());
        loop {
            // The receiver may also go while the server looks for the next row.
            let arrived = tokio::select! {
                biased;
                arrived = self.watch.over(self.action, chunks.next()) => arrived?,
                () = &mut closed => return Ok(ControlFlow::Break(())),
            };
            let Some(arrived) = arrived else { break };
            for chunk in arrived {
                decoder.push(&chunk.map_err(|error| self.server.failed(self.action, error))?);
                while let Some(tuple) = decoder.next().map_err(|error| self.nonsense(error))? {
                    let is_full = self.take(&tuple, &mut batches)?;
                    if is_full && batches.flush().await == Err(ReceiverGone) {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        decoder.finish().map_err(|error| self.nonsense(error))?;
        Ok(match batches.flush().await {
            Ok(()) => ControlFlow::Continue(()),
            Err(ReceiverGone) => ControlFlow::Break(()),
        })
    }

    /// Adds the row, and says whether it is time to hand over.
    fn take(&self, tuple: &Tuple<'_>, batches: &mut Batches) -> Result<bool> {
        let uid = self.text(tuple.field(0).unwrap_or_default(), &self.table.uid.name, tuple)?;
        let created_at = self.time(tuple.field(1)).ok_or_else(|| self.unusable(tuple))?;
        let location = tuple
            .field(2)
            .map(|location| self.text(location, &self.table.location.name, tuple))
            .transpose()?;
        // A negative size is no size: the row has none, and its file's is not checked.
        let size = tuple
            .field(3)
            .and_then(|size| <[u8; 8]>::try_from(size).ok())
            .and_then(|size| u64::try_from(i64::from_be_bytes(size)).ok());
        if let Some(sound) = RowRef::sound(uid, created_at, location, size) {
            return Ok(batches.add(sound));
        }
        let row = Row::new(uid.to_owned(), created_at, location.map(str::to_owned), size);
        Ok(batches.add(RowRef::from(&row)))
    }

    /// UTF-8 is what the session asks for, but a database in SQL_ASCII sends what it holds.
    fn text<'t>(&self, bytes: &'t [u8], column: &str, tuple: &Tuple<'_>) -> Result<&'t str> {
        std::str::from_utf8(bytes).map_err(|_| BackendError::Invalid {
            what: format!(
                "{}: the column `{column}` of the row with uid `{}` is not UTF-8; correct the row",
                self.action,
                String::from_utf8_lossy(tuple.field(0).unwrap_or_default())
            ),
        })
    }

    fn time(&self, field: Option<&[u8]>) -> Option<Timestamp> {
        let since_2000 = match self.time {
            TimeType::Date => i64::from(i32::from_be_bytes(field?.try_into().ok()?))
                .checked_mul(MICROS_PER_DAY)?,
            TimeType::Zoned | TimeType::Local => i64::from_be_bytes(field?.try_into().ok()?),
        };
        Timestamp::from_micros(since_2000.checked_add(EPOCH_MICROS)?)
    }

    /// The type of the column must have changed since the table was looked at.
    fn unusable(&self, tuple: &Tuple<'_>) -> BackendError {
        BackendError::Invalid {
            what: format!(
                "{}: the created_at of the row with uid `{}` is not of type {}; was the table \
                 changed? Start again",
                self.action,
                String::from_utf8_lossy(tuple.field(0).unwrap_or_default()),
                self.table.created_at.type_name
            ),
        }
    }

    fn nonsense(&self, error: Malformed) -> BackendError {
        BackendError::Failed {
            what: format!("{}: {}", self.server.name(), self.action),
            cause: error.into(),
        }
    }
}
