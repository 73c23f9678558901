//! The committed passes of the ledger, read page by page into little memory.

use backends::ledger::WindowRecord;
use backends::{BackendError, Ledger};
use protocol::names::{CertificateName, parse_certificate};
use protocol::{Timestamp, Window};

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
