//! Writing objects. In a directory a write is durable after a flush, which is one for many; what
//! somebody may rely on already is never replaced by bytes that are not on the disk yet.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};
use protocol::names;

use super::fault::write_error;
use super::{PART_BYTES, PARTS_IN_FLIGHT, REQUEST_TIMEOUT, Store, bounded, time_for};
use crate::error::{BackendError, Result};
use crate::metrics::timed;
use crate::sabotage;

impl Store {
    /// Writes a whole object. On S3 it is durable when this returns; in a directory after the
    /// next [`Store::flush`]. Never half-visible, but in a directory whose machine lost power before
    /// that; an object that was there is then there as it was.
    ///
    /// # Errors
    /// When the store refuses or does not answer in time.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        if bytes.len() > PART_BYTES * PARTS_IN_FLIGHT {
            return timed("put", self.put_parts(key, bytes)).await;
        }
        timed("put", self.put_whole(key, bytes, &self.what("write", key))).await
    }

    pub(super) async fn put_whole(&self, key: &str, bytes: Bytes, what: &str) -> Result<()> {
        let is_careful = self.is_directory() && !sabotage::is("overwritten_unsynced");
        if is_careful && self.put_new(key, bytes.clone(), what).await? {
            return Ok(());
        }
        let limit = time_for(bytes.len() as u64);
        let path = Path::from(key);
        let options = PutOptions { attributes: self.attributes.clone(), ..PutOptions::default() };
        let put = self.when_synced().put_opts(&path, bytes.into(), options);
        bounded(what, limit, put).await?.map_err(|error| write_error(what.to_owned(), error))?;
        Ok(())
    }

    /// Writes an object of a directory unless one of its name is there; whether it did. It is not
    /// synced, so that one [`Store::flush`] does for many. That is right only where nobody relies
    /// on the name yet, and where a torn object is told by its name: when the power fails, a name
    /// may be on the disk before its bytes are.
    async fn put_new(&self, key: &str, bytes: Bytes, what: &str) -> Result<bool> {
        let is_told = names::content_hash(key).is_some() || key.starts_with(names::BIG_FILES);
        if !is_told {
            return Ok(false);
        }
        let (limit, path) = (time_for(bytes.len() as u64), Path::from(key));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.objects.put_opts(&path, bytes.into(), options);
        // Whatever is in the way, the synced write meets it as well and says so.
        Ok(bounded(what, limit, put).await?.is_ok())
    }

    /// Where what is written is on the disk before its name is, and durable on return.
    pub(super) fn when_synced(&self) -> &dyn ObjectStore {
        if sabotage::is("overwritten_unsynced") {
            return &*self.objects;
        }
        self.synced.as_deref().unwrap_or(&*self.objects)
    }

    /// Writes an object that must not exist yet; false when it does.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when the store cannot do this (some servers know no conditional
    /// writes), others when it refuses or does not answer in time.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<bool> {
        let what = self.what("create", key);
        let path = Path::from(key);
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: self.attributes.clone(),
            ..PutOptions::default()
        };
        let put = self.when_synced().put_opts(&path, bytes.into(), options);
        match bounded(&what, REQUEST_TIMEOUT, put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(write_error(what, error)),
        }
    }

    /// Writes an object that is never to have other bytes. Where a server knows no conditional
    /// writes, it is looked for first.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] when one is there that has other bytes, others when the store
    /// refuses or does not answer in time.
    pub async fn put_once(&self, key: &str, bytes: Bytes) -> Result<()> {
        let is_new = match self.create(key, bytes.clone()).await {
            Err(BackendError::Failed { .. }) if self.size(key).await?.is_none() => {
                return self.put(key, bytes).await;
            }
            Err(BackendError::Failed { .. }) => false,
            other => other?,
        };
        // A write whose answer was lost is found there as well.
        if is_new || self.get(key, bytes.len() as u64).await.is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        Err(BackendError::Conflict {
            what: format!("{}: one is there that has other bytes", self.what("write", key)),
        })
    }
}
