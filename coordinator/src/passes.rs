//! The committed passes, as the ledger has them, page by page, and as the store certifies them.

use backends::ledger::WindowRecord;
use backends::{BackendError, Ledger, Store};
use futures::TryStreamExt;
use protocol::names::{CertificateName, parse_certificate};
use protocol::{ArchiveIdentity, Certificate, Timestamp, Window, names};

use crate::survey::MAX_CERTIFICATE_BYTES;

/// Certificates read at a time.
pub(crate) const CERTIFICATES_IN_FLIGHT: usize = 4;
/// Objects that a refusal names.
const NAMED_OBJECTS: usize = 10;

/// Rows of a page. A window end has at most 10,000 passes, so that a page always ends one.
const PAGE_ROWS: u32 = 20_000;

/// A committed pass over a window, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) window: Window,
    pub(crate) certificate: CertificateName,
}

/// Every committed pass, by window end and revision.
///
/// # Errors
/// When the ledger does not answer, or names a certificate that cannot be the pass's.
pub(crate) async fn committed_passes(ledger: &dyn Ledger) -> Result<Vec<Pass>, BackendError> {
    let (mut passes, mut after) = (Vec::new(), None);
    loop {
        let mut page = ledger.committed_windows(after, None, PAGE_ROWS).await?;
        let is_last = page.len() < PAGE_ROWS as usize;
        if !is_last {
            drop_last_end(&mut page);
        }
        let Some(last) = page.last().map(|record| record.window.end()) else { return Ok(passes) };
        for record in &page {
            passes.push(pass(record)?);
        }
        if is_last {
            return Ok(passes);
        }
        after = Some(last);
    }
}

/// The last end of a full page may have more passes than the page: they come with the next one.
fn drop_last_end(page: &mut Vec<WindowRecord>) {
    let last: Option<Timestamp> = page.last().map(|record| record.window.end());
    page.retain(|record| Some(record.window.end()) != last);
}

fn pass(record: &WindowRecord) -> Result<Pass, BackendError> {
    let name = record.certificate.as_deref().and_then(parse_certificate);
    match name.filter(|name| name.window == record.key()) {
        Some(certificate) => Ok(Pass { window: record.window, certificate }),
        None => Err(BackendError::Invalid {
            what: format!(
                "the ledger says that {} certifies window {}, which cannot be: the row of \
                 des_windows was changed by hand",
                record.certificate.as_deref().unwrap_or("nothing"),
                record.key()
            ),
        }),
    }
}

/// The names of all certificates that the store holds, superseded ones included.
pub(crate) async fn listed_certificates(
    store: &Store,
) -> Result<Vec<CertificateName>, BackendError> {
    let listing = store.list(names::CERTIFICATES);
    listing.try_filter_map(|it| async move { Ok(parse_certificate(&it.key)) }).try_collect().await
}

/// Reads a certificate; the inner error names it and says what is wrong with it.
pub(crate) async fn read_certificate(
    store: &Store,
    identity: &ArchiveIdentity,
    name: CertificateName,
) -> Result<Result<Certificate, String>, BackendError> {
    let key = names::certificate(name.window, name.epoch);
    let bytes = match store.get(&key, MAX_CERTIFICATE_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Err(format!("{key}: it is not there"))),
        Err(error) => return Err(error),
    };
    Ok(match Certificate::decode(&bytes) {
        Err(error) => Err(format!("{key}: {error}")),
        Ok(it) if (it.key(), it.epoch) != (name.window, name.epoch) => {
            Err(format!("{key}: it is about another window, {}", it.key()))
        }
        Ok(it) if (&it.archive, &it.job) != (&identity.archive, &identity.job) => {
            Err(format!("{key}: it is about another archive, {} of job {}", it.archive, it.job))
        }
        Ok(it) if it.rows() != it.packed + it.failed || it.tally_of_failures() != it.failed => {
            Err(format!("{key}: its counts do not add up"))
        }
        Ok(certificate) => Ok(certificate),
    })
}

/// Reads the certificate of a pass that the ledger has.
pub(crate) async fn read_pass(
    store: &Store,
    identity: &ArchiveIdentity,
    pass: &Pass,
) -> Result<Result<Certificate, String>, BackendError> {
    let read = read_certificate(store, identity, pass.certificate).await?;
    Ok(read.and_then(|certificate| {
        if certificate.window == pass.window {
            return Ok(certificate);
        }
        let key = names::certificate(pass.certificate.window, pass.certificate.epoch);
        let (has, says) = (pass.window, certificate.window);
        Err(format!("{key}: it is about the window {says}, and the ledger says {has}"))
    }))
}

/// The first few, a line each, and how many more there are.
pub(crate) fn shortened(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED_OBJECTS).cloned().collect::<Vec<_>>().join("\n  ");
    if names.len() > NAMED_OBJECTS {
        text.push_str(&format!("\n  and {} more", names.len() - NAMED_OBJECTS));
    }
    text
}
