//! An archive, opened by its identity, and its certificates.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backends::{BackendError, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use protocol::names::{CertificateName, effective_certificates, parse_certificate};
use protocol::shard::{ShardError, Tail, TailStep, read_tail};
use protocol::{ArchiveIdentity, Certificate, DocumentError, Timestamp, names};

const MAX_IDENTITY_BYTES: u64 = 64 * 1024;
const MAX_CERTIFICATE_BYTES: u64 = 1024 * 1024 * 1024;
/// Certificates that are remembered.
const REMEMBERED_CERTIFICATES: usize = 64;
/// Shard tails that are remembered.
const REMEMBERED_TAILS: usize = 4_096;

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
    /// The store holds no archive.
    #[error("{0}")]
    NoArchive(String),
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
    remembered: Arc<Mutex<Remembered>>,
}

/// What was read before. Certificates and shards never change under their names, so only the
/// listing can grow old.
#[derive(Debug, Default)]
struct Remembered {
    /// The listing from this time on.
    listing: Option<(Timestamp, Arc<Vec<CertificateName>>)>,
    certificates: HashMap<CertificateName, Arc<Certificate>>,
    tails: HashMap<String, Arc<Tail>>,
}

impl Archive {
    /// Opens the archive that `store` holds.
    ///
    /// # Errors
    /// When there is none, or its identity cannot be read.
    pub async fn open(store: Store) -> Result<Self, ReadError> {
        let bytes = match store.get(names::ARCHIVE, MAX_IDENTITY_BYTES).await {
            Err(error) if error.is_not_found() => {
                return Err(ReadError::NoArchive(format!(
                    "{store} holds no archive ({} is not there): check store.url or \
                     packer.output_dir",
                    names::ARCHIVE
                )));
            }
            other => other?,
        };
        let identity = ArchiveIdentity::decode(&bytes)
            .map_err(|cause| ReadError::Document { object: names::ARCHIVE.to_owned(), cause })?;
        Ok(Self { store, identity: Arc::new(identity), remembered: Arc::default() })
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

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the listing of certificates, so that windows committed since are seen.
    pub(crate) fn forget_listing(&self) {
        self.remembered().listing = None;
    }

    /// Certificate names from `from` on, listed at most once; whether they were remembered.
    pub(crate) async fn known_names(
        &self,
        from: Timestamp,
    ) -> Result<(Arc<Vec<CertificateName>>, bool), ReadError> {
        let known = self.remembered().listing.clone();
        if let Some((_, names)) = known.filter(|(since, _)| *since <= from) {
            return Ok((names, true));
        }
        let names = Arc::new(self.certificate_names(Some(from)).await?);
        self.remembered().listing = Some((from, Arc::clone(&names)));
        Ok((names, false))
    }

    /// A certificate, read at most once while it is remembered.
    pub(crate) async fn known_certificate(
        &self,
        name: CertificateName,
    ) -> Result<Arc<Certificate>, ReadError> {
        let known = self.remembered().certificates.get(&name).map(Arc::clone);
        if let Some(known) = known {
            return Ok(known);
        }
        let certificate = Arc::new(self.certificate(name).await?);
        let mut remembered = self.remembered();
        if remembered.certificates.len() >= REMEMBERED_CERTIFICATES {
            remembered.certificates.clear();
        }
        remembered.certificates.insert(name, Arc::clone(&certificate));
        Ok(certificate)
    }

    /// The tail of one of our shards, read at most once while it is remembered.
    pub(crate) async fn known_tail(
        &self,
        key: &str,
        size: u64,
        guess: u64,
    ) -> Result<Arc<Tail>, ReadError> {
        let known = self.remembered().tails.get(key).map(Arc::clone);
        if let Some(known) = known {
            return Ok(known);
        }
        let (found, step) = self.tail(key, guess).await?;
        let damaged = |what: &str| ReadError::Damaged {
            object: key.to_owned(),
            cause: ShardError::Damaged { offset: found, what: what.to_owned() },
        };
        if found != size {
            return Err(damaged("it has another size than its certificate states"));
        }
        let TailStep::Fast(tail) = step else {
            return Err(damaged("the lookup extension is gone"));
        };
        let tail = Arc::new(tail);
        let mut remembered = self.remembered();
        if remembered.tails.len() >= REMEMBERED_TAILS {
            remembered.tails.clear();
        }
        remembered.tails.insert(key.to_owned(), Arc::clone(&tail));
        Ok(tail)
    }

    pub(crate) async fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        Ok(self.store.get_range(key, range).await?)
    }
}
