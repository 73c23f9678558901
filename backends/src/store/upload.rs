//! Objects that are written in parts, with bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, PutMultipartOptions};
use tokio::task::{JoinSet, spawn_blocking};

use super::fault::write_error;
use super::parts::{Parts, Room};
use super::{PART_BYTES, PARTS_IN_FLIGHT, Store, bounded, time_for};
use crate::error::{BackendError, Result};
use crate::metrics::timed;

/// Looks at the bytes of an upload as they pass.
pub trait UploadCheck {
    /// Sees the next bytes.
    fn see(&mut self, bytes: &[u8]);

    /// Whether the object may come into being.
    ///
    /// # Errors
    /// The reason why not.
    fn verdict(&mut self) -> std::result::Result<(), String>;
}

/// Accepts every upload.
pub struct AcceptAll;

impl UploadCheck for AcceptAll {
    fn see(&mut self, _bytes: &[u8]) {}
    fn verdict(&mut self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// Where an upload's bytes come from.
enum Source {
    File(Arc<std::fs::File>, Arc<Parts>),
    Memory(Bytes),
}

impl Source {
    /// The next `count` bytes, and the room that they take, where they were not in memory already. Waits
    /// until there is some.
    async fn take(&mut self, count: usize, what: &str) -> Result<(Bytes, Option<Room>)> {
        let (file, parts) = match self {
            Self::Memory(bytes) => return Ok((bytes.split_to(count), None)),
            Self::File(file, parts) => (Arc::clone(file), Arc::clone(parts)),
        };
        // A read that hangs takes no room any more when nobody waits for it.
        let room = parts.room().await;
        let reading = spawn_blocking(move || parts.read(&file, count));
        let unreadable = |cause| {
            let what = format!("{what}: the file cannot be read");
            BackendError::Unavailable { what, cause }
        };
        let read = reading.await.map_err(|panicked| unreadable(panicked.into()))?;
        let bytes = read.map_err(|error| unreadable(error.into()))?;
        if bytes.len() < count {
            let what = format!("{what}: the file is shorter than it should be");
            return Err(BackendError::Invalid { what });
        }
        Ok((bytes, Some(room)))
    }
}

impl Store {
    /// Uploads `size` bytes of an open file from its current position, in parts, with bounded
    /// memory. `accept` sees every byte before it is sent, and is asked at the end whether the
    /// object may come into being. Durable as after [`Store::put`].
    ///
    /// # Errors
    /// When the file cannot be read, the store refuses, or `accept` does; nothing is visible then.
    /// [`BackendError::Invalid`] says that the file is not what it should be: too short, or not
    /// accepted.
    pub async fn put_file(
        &self,
        key: &str,
        file: std::fs::File,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
    ) -> Result<()> {
        let what = self.what("upload", key);
        let source = Source::File(Arc::new(file), Arc::clone(&self.parts));
        let upload = self.upload(key, source, size, accept, &what);
        timed("put", async { bounded(&what, time_for(size), upload).await? }).await
    }

    /// Uploads bytes that are too many for one request.
    pub(super) async fn put_parts(&self, key: &str, bytes: Bytes) -> Result<()> {
        let what = self.what("write", key);
        let size = bytes.len() as u64;
        let mut accept = AcceptAll;
        let upload = self.upload(key, Source::Memory(bytes), size, &mut accept, &what);
        bounded(&what, time_for(size), upload).await?
    }

    async fn upload(
        &self,
        key: &str,
        mut source: Source,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
        what: &str,
    ) -> Result<()> {
        // What fits into one part needs one request instead of three.
        if let Ok(count) = usize::try_from(size)
            && count <= PART_BYTES
        {
            let (bytes, _room) = source.take(count, what).await?;
            accept.see(&bytes);
            accept.verdict().map_err(|why| refused(what, &why))?;
            return self.put_whole(key, bytes, what).await;
        }
        let options = PutMultipartOptions {
            attributes: self.attributes.clone(),
            ..PutMultipartOptions::default()
        };
        let failed = |error| write_error(what.to_owned(), error);
        let path = Path::from(key);
        let begun = self.when_synced().put_multipart_opts(&path, options).await;
        let mut upload = begun.map_err(failed)?;
        let mut in_flight = JoinSet::new();
        let sent = self.send_parts(&mut *upload, &mut in_flight, source, size, accept, what);
        match sent.await {
            Ok(()) => upload.complete().await.map(|_result| ()).map_err(failed),
            Err(error) => {
                in_flight.shutdown().await;
                // The error that matters is the first; leftover parts are the bucket's
                // lifecycle rule's to sweep.
                let _aborted = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Sends every part and waits until all have arrived.
    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        in_flight: &mut JoinSet<object_store::Result<()>>,
        mut source: Source,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
        what: &str,
    ) -> Result<()> {
        let mut remaining = size;
        while remaining > 0 {
            while in_flight.len() >= PARTS_IN_FLIGHT {
                arrived(in_flight, what).await?;
            }
            let count = usize::try_from(remaining).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let (part, room) = source.take(count, what).await?;
            accept.see(&part);
            let sending = upload.put_part(part.into());
            in_flight.spawn(async move {
                let sent = sending.await;
                drop(room);
                sent
            });
            remaining -= count as u64;
        }
        accept.verdict().map_err(|why| refused(what, &why))?;
        while !in_flight.is_empty() {
            arrived(in_flight, what).await?;
        }
        Ok(())
    }
}

async fn arrived(in_flight: &mut JoinSet<object_store::Result<()>>, what: &str) -> Result<()> {
    match in_flight.join_next().await {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(write_error(what.to_owned(), error)),
        Some(Err(panicked)) => {
            Err(BackendError::Failed { what: what.to_owned(), cause: panicked.into() })
        }
    }
}

fn refused(what: &str, why: &str) -> BackendError {
    BackendError::Invalid { what: format!("{what}: {why}") }
}
