//! An archive, opened by its identity, and its certificates.

use std::ops::Range;
use std::sync::Arc;

use backends::{BackendError, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use protocol::names::{CertificateName, effective_certificates, parse_certificate};
use protocol::shard::{ShardError, TailStep, read_tail};
use protocol::{ArchiveIdentity, Certificate, DocumentError, Timestamp, names};

const MAX_IDENTITY_BYTES: u64 = 64 * 1024;
const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not give it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The store gave something that is damaged.
    #[error("{object}: {cause}")]
    Damaged {
        /// Name of the object.
        object: String,
        /// What is wrong, and where.
        cause: ShardError,
    },
    /// The store gave a document that cannot be read.
    #[error("{object}: {cause}")]
    Document {
        /// Name of the object.
        object: String,
        /// What is wrong.
        cause: DocumentError,
    },
    /// Something contradicts something else.
    #[error("{0}")]
    Contradiction(String),
}

impl ReadError {
    pub(crate) fn damaged(object: &str) -> impl FnOnce(ShardError) -> Self + '_ {
        move |cause| Self::Damaged { object: object.to_owned(), cause }
    }
}

/// An archive that can be read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(crate) store: Store,
    pub(crate) identity: Arc<ArchiveIdentity>,
}

impl Archive {
    /// Opens the archive that `store` holds.
    ///
    /// # Errors
    /// When there is none, or its identity cannot be read.
    pub async fn open(store: Store) -> Result<Self, ReadError> {
        let bytes = match store.get(names::ARCHIVE, MAX_IDENTITY_BYTES).await {
            Err(error) if error.is_not_found() => {
                return Err(ReadError::Contradiction(format!(
                    "{store} holds no archive ({} is not there): check store.url or \
                     packer.output_dir",
                    names::ARCHIVE
                )));
            }
            other => other?,
        };
        let identity = ArchiveIdentity::decode(&bytes)
            .map_err(|cause| ReadError::Document { object: names::ARCHIVE.to_owned(), cause })?;
        Ok(Self { store, identity: Arc::new(identity) })
    }

    /// Who the archive is.
    pub fn identity(&self) -> &ArchiveIdentity {
        &self.identity
    }

    /// Names of the certificates that count, whose window ends at or after `from` (all where
    /// `None`), in order of window end, then revision: one listing.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn certificate_names(
        &self,
        from: Option<Timestamp>,
    ) -> Result<Vec<CertificateName>, ReadError> {
        let listing = match from {
            Some(from) => {
                self.store.list_after(names::CERTIFICATES, &names::certificates_from(from))
            }
            None => self.store.list(names::CERTIFICATES),
        };
        let found: Vec<_> = listing
            .try_filter_map(|object| async move { Ok(parse_certificate(&object.key)) })
            .try_collect()
            .await?;
        let ends_late_enough =
            |name: &CertificateName| from.is_none_or(|from| name.window.end >= from);
        Ok(effective_certificates(found.into_iter().filter(ends_late_enough)))
    }

    /// Reads a certificate and checks that it is about what its name says.
    ///
    /// # Errors
    /// When it cannot be read, or belongs to another archive or window.
    pub async fn certificate(&self, name: CertificateName) -> Result<Certificate, ReadError> {
        let key = names::certificate(name.window, name.epoch);
        let bytes = self.store.get(&key, MAX_CERTIFICATE_BYTES).await?;
        let certificate = Certificate::decode(&bytes)
            .map_err(|cause| ReadError::Document { object: key.clone(), cause })?;
        if certificate.archive != self.identity.archive || certificate.key() != name.window {
            return Err(ReadError::Contradiction(format!(
                "{key} is about archive {} and window {}, not what its name and {} say",
                certificate.archive,
                certificate.key(),
                names::ARCHIVE
            )));
        }
        Ok(certificate)
    }

    /// Reads the end of a shard: one request where `guess` bytes are enough.
    pub(crate) async fn tail(&self, key: &str, guess: u64) -> Result<(u64, TailStep), ReadError> {
        let (size, bytes) = self.store.get_tail(key, guess).await?;
        match read_tail(size, &bytes).map_err(ReadError::damaged(key))? {
            TailStep::Need(more) => {
                let (size, bytes) = self.store.get_tail(key, more).await?;
                let step = read_tail(size, &bytes).map_err(ReadError::damaged(key))?;
                Ok((size, step))
            }
            step => Ok((size, step)),
        }
    }

    pub(crate) async fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        Ok(self.store.get_range(key, range).await?)
    }
}
