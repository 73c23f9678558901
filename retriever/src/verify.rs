//! Verifies an archive: that everything certified is there, and, with `deep`, that every byte of
//! it is right.

use std::collections::{BTreeSet, HashSet};

use backends::BackendError;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use protocol::manifest::ManifestReader;
use protocol::receipt::{BigFileRef, ShardRef};
use protocol::{Certificate, ContentHash, Tally, Timestamp, names};
use serde::Serialize;

use crate::archive::{Archive, ReadError};

const LOOKS_IN_FLIGHT: usize = 32;
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;

/// Characters of a uid, and bytes of what is said of a big file, beyond which no more is said.
const UID_CHARS: usize = 80;
const WHAT_BYTES: usize = 1_000;

/// How to verify.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Read and check every byte, rather than look at sizes.
    pub deep: bool,
    /// Shards read at a time.
    pub parallel: usize,
    /// Windows whose end lies before this are left out.
    pub from: Option<Timestamp>,
    /// Windows whose start lies at or after this are left out.
    pub until: Option<Timestamp>,
}

/// What a verification found. Counts are of what was found sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Files that certificates say are in the archive.
    pub files: u64,
    /// Shards looked at.
    pub shards: u64,
    /// Bytes of the shards and big files looked at.
    pub bytes: u64,
    /// Objects that are there and not right.
    pub damaged: u64,
    /// Objects that are not there.
    pub missing: u64,
    /// What is wrong with what.
    pub problems: Vec<Problem>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
}

/// Called with files and bytes of each shard that was looked at.
pub type VerifyProgress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

impl Verification {
    fn missing(&mut self, object: String) {
        self.missing += 1;
        self.problems.push(Problem { object, what: "it is not there".to_owned() });
    }

    fn damaged(&mut self, object: String, what: String) {
        self.damaged += 1;
        self.problems.push(Problem { object, what });
    }
}

impl Archive {
    /// Verifies every window that `options` names.
    ///
    /// # Errors
    /// When the store does not answer; what is wrong in the archive is in the result.
    pub fn verify<'a>(
        &'a self,
        options: VerifyOptions,
        progress: VerifyProgress<'a>,
    ) -> BoxFuture<'a, Result<Verification, BackendError>> {
        Box::pin(self.verify_windows(options, progress))
    }

    async fn verify_windows(
        &self,
        options: VerifyOptions,
        progress: VerifyProgress<'_>,
    ) -> Result<Verification, BackendError> {
        let mut result = Verification::default();
        let certificates = self.readable_certificates(options, &mut result).await?;
        let replaced: HashSet<&str> = certificates
            .iter()
            .flat_map(|certificate| certificate.replaces.iter().map(String::as_str))
            .collect();
        let mut big_files = BTreeSet::new();
        let mut last: Option<&Certificate> = None;
        for certificate in &certificates {
            let gap = last.is_some_and(|last| certificate.window.start() > last.window.end());
            if let (true, Some(last)) = (gap, last) {
                let key = names::certificate(certificate.key(), certificate.epoch);
                let what = format!(
                    "the window before it is not there: nothing certifies {} to {}",
                    last.window.end(),
                    certificate.window.start()
                );
                result.damaged(key, what);
            }
            last = Some(certificate);
            big_files.extend(certificate.big_files.iter().cloned());
            self.verify_papers(certificate, options.deep, &mut result).await?;
            self.verify_shards(certificate, &replaced, options, &mut result, progress).await?;
        }
        let sound = result.problems.len();
        self.verify_big_files(big_files, options, &mut result, progress).await?;
        self.name_the_files(&certificates, &mut result.problems[sound..]).await?;
        result.problems.sort();
        Ok(result)
    }

    /// Says of big files whose content they are, as far as shards can tell.
    async fn name_the_files(
        &self,
        certificates: &[Certificate],
        problems: &mut [Problem],
    ) -> Result<(), BackendError> {
        for certificate in certificates {
            let named = |problem: &Problem| {
                certificate.big_files.iter().any(|big| big.key == problem.object)
            };
            if !problems.iter().any(named) {
                continue;
            }
            for shard in &certificate.shards {
                let of_shard = match self.big_files_of(shard).await {
                    Ok(of_shard) => of_shard,
                    Err(ReadError::Backend(error)) if error.is_retryable() => return Err(error),
                    // It is told as damaged, or gone, itself.
                    Err(_) => continue,
                };
                for (uid, object) in of_shard {
                    let problem = problems.iter_mut().find(|problem| problem.object == object);
                    let uid: String = uid.chars().take(UID_CHARS).collect();
                    let Some(problem) = problem else { continue };
                    let whose = format!("uid {uid:?}");
                    if !problem.what.contains(&whose) && problem.what.len() < WHAT_BYTES {
                        problem.what.push_str(&format!("; it is the content of {whose}"));
                    }
                }
            }
        }
        Ok(())
    }

    async fn readable_certificates(
        &self,
        options: VerifyOptions,
        result: &mut Verification,
    ) -> Result<Vec<Certificate>, BackendError> {
        let names = self.certificate_names(options.from).await.map_err(into_backend)?;
        let mut certificates = Vec::with_capacity(names.len());
        for name in names {
            match self.certificate(name).await {
                Ok(certificate)
                    if options.until.is_some_and(|until| certificate.window.start() >= until) =>
                {
                    break;
                }
                Ok(certificate) => {
                    if certificate.tally_of_failures() != certificate.failed
                        || certificate.rows() != certificate.packed + certificate.failed
                    {
                        let key = names::certificate(name.window, name.epoch);
                        result.damaged(key, "its counts do not add up".to_owned());
                    }
                    certificates.push(certificate);
                }
                Err(ReadError::Backend(error)) => return Err(error),
                Err(error) => {
                    result.damaged(names::certificate(name.window, name.epoch), error.to_string());
                }
            }
        }
        Ok(certificates)
    }

    /// Manifests and receipts: sizes, and, deep, the manifests' rows.
    async fn verify_papers(
        &self,
        certificate: &Certificate,
        deep: bool,
        result: &mut Verification,
    ) -> Result<(), BackendError> {
        // Partitions may share a manifest, which then holds the rows of all of them.
        let manifests = certificate.manifests().into_iter();
        let manifests = manifests.map(|it| (it.key, it.size, Some(it.rows)));
        let receipts = certificate.partitions.iter();
        let receipts = receipts.map(|it| (it.receipt.clone(), it.receipt_size, None));
        let mut looks = stream::iter(manifests.chain(receipts).collect::<Vec<_>>())
            .map(|(key, size, rows)| async move {
                let problem = match (deep, self.store.size(&key).await?) {
                    (_, None) => None,
                    (_, Some(found)) if found != size => {
                        Some(Err("it has another size".to_owned()))
                    }
                    (false, Some(_)) => Some(Ok(())),
                    (true, Some(_)) => Some(self.check_paper(&key, rows).await?),
                };
                Ok::<_, BackendError>((key, problem))
            })
            .buffer_unordered(LOOKS_IN_FLIGHT);
        while let Some(look) = looks.next().await {
            match look? {
                (key, None) => result.missing(key),
                (key, Some(Err(what))) => result.damaged(key, what),
                (_, Some(Ok(()))) => {}
            }
        }
        Ok(())
    }

    async fn check_paper(
        &self,
        key: &str,
        rows: Option<Tally>,
    ) -> Result<Result<(), String>, BackendError> {
        let bytes = self.store.get(key, MAX_MANIFEST_BYTES).await?;
        if names::content_hash(key) != Some(ContentHash::of(&bytes)) {
            return Ok(Err("its bytes are not those that its name stands for".to_owned()));
        }
        let Some(rows) = rows else { return Ok(Ok(())) };
        let check = tokio::task::spawn_blocking(move || {
            let reader = ManifestReader::new(&bytes).map_err(|error| error.to_string())?;
            let found = reader.visit(|_position, _row| {}).map_err(|error| error.to_string())?;
            let agrees = found.rows == rows;
            agrees
                .then_some(())
                .ok_or_else(|| "it holds other rows than its certificate states".to_owned())
        });
        check.await.map_err(|panicked| BackendError::Failed {
            what: format!("checking {key}"),
            cause: panicked.into(),
        })
    }

    async fn verify_shards(
        &self,
        certificate: &Certificate,
        replaced: &HashSet<&str>,
        options: VerifyOptions,
        result: &mut Verification,
        progress: VerifyProgress<'_>,
    ) -> Result<(), BackendError> {
        let shards: Vec<ShardRef> = certificate
            .shards
            .iter()
            .filter(|shard| !replaced.contains(shard.key.as_str()))
            .cloned()
            .collect();
        let whole = shards.len() == certificate.shards.len();
        result.files += shards.iter().map(|shard| shard.entries).sum::<u64>();
        let parallel = if options.deep { options.parallel.max(1) } else { LOOKS_IN_FLIGHT };
        let mut looks = stream::iter(shards)
            .map(|shard| {
                let archive = self.clone();
                // Checking is CPU work: each shard gets a task of its own on the blocking threads.
                let work = tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Handle::current();
                    let look = runtime.block_on(archive.look_at_shard(&shard, options.deep));
                    (shard, look)
                });
                async move {
                    work.await.map_err(|panicked| BackendError::Failed {
                        what: "checking a shard".to_owned(),
                        cause: panicked.into(),
                    })
                }
            })
            .buffer_unordered(parallel);
        let mut packed = Tally::default();
        let mut all_sound = true;
        while let Some(look) = looks.next().await {
            let (shard, look) = look?;
            result.shards += 1;
            result.bytes += shard.size;
            progress(shard.entries, shard.size);
            match look? {
                ShardLook::Sound(tally) => packed += tally,
                ShardLook::Missing => {
                    all_sound = false;
                    result.missing(shard.key);
                }
                ShardLook::Damaged(what) => {
                    all_sound = false;
                    result.damaged(shard.key, what);
                }
            }
        }
        if options.deep && whole && all_sound && packed != certificate.packed {
            let key = names::certificate(certificate.key(), certificate.epoch);
            result.damaged(key, "its shards hold other files than it states".to_owned());
        }
        Ok(())
    }

    async fn look_at_shard(&self, shard: &ShardRef, deep: bool) -> Result<ShardLook, BackendError> {
        match self.store.size(&shard.key).await? {
            None => Ok(ShardLook::Missing),
            Some(size) if size != shard.size => Ok(ShardLook::Damaged(format!(
                "it has {size} bytes, and should have {}",
                shard.size
            ))),
            Some(_) if !deep => Ok(ShardLook::Sound(Tally::default())),
            Some(_) => match self.walk(shard, true, &mut |_file| {}).await {
                Ok(walked) => Ok(ShardLook::Sound(walked.packed)),
                Err(ReadError::Backend(error)) => Err(error),
                Err(ReadError::Damaged { cause, .. }) => Ok(ShardLook::Damaged(cause.to_string())),
                Err(other) => Ok(ShardLook::Damaged(other.to_string())),
            },
        }
    }

    async fn verify_big_files(
        &self,
        big_files: BTreeSet<BigFileRef>,
        options: VerifyOptions,
        result: &mut Verification,
        progress: VerifyProgress<'_>,
    ) -> Result<(), BackendError> {
        for big in big_files {
            result.bytes += big.size;
            let sha256 = big.key.rsplit('/').next().unwrap_or_default().to_owned();
            match self.store.size(&big.key).await? {
                None => result.missing(big.key),
                Some(size) if size != big.size => {
                    let what = format!("it has {size} bytes, and should have {}", big.size);
                    result.damaged(big.key, what);
                }
                Some(_) if !options.deep => {}
                Some(_) => {
                    match self.copy_big_file(&sha256, big.size, &mut std::io::sink()).await {
                        Ok(()) => {}
                        Err(ReadError::Backend(error)) => return Err(error),
                        Err(error) => result.damaged(big.key, error.to_string()),
                    }
                }
            }
            progress(0, big.size);
        }
        Ok(())
    }
}

enum ShardLook {
    Sound(Tally),
    Missing,
    Damaged(String),
}

fn into_backend(error: ReadError) -> BackendError {
    match error {
        ReadError::Backend(error) => error,
        other => BackendError::Invalid { what: other.to_string() },
    }
}
