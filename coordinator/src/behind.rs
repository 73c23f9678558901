//! Whether the ledger is older than the archive: restored from a backup, perhaps. Whoever led with it
//! would settle again what is settled, from what the catalog and the sources have by now.

use backends::{BackendError, Ledger, Store};
use protocol::certificate::CertificateKind;
use protocol::names::{CertificateName, effective_certificates};
use protocol::{ArchiveIdentity, WindowKey, names};

use crate::gc::{Settled, Standing};
use crate::init::{InitError, has_certificates, read_identity, unknown_archive};
use crate::passes::{committed_passes, listed_certificates, read_certificate};

/// Whether the store has certificates of an archive that the ledger does not have, of later epochs
/// than it, or of windows that it does not know: what to do then.
///
/// # Errors
/// When something does not answer, or the identity cannot be read.
pub async fn behind(store: &Store, ledger: &dyn Ledger) -> Result<Option<String>, InitError> {
    let Some(identity) = read_identity(store).await? else { return Ok(None) };
    match ledger.archive().await? {
        Some(_) => Ok(is_behind(store, ledger, &identity).await?),
        None if has_certificates(store).await? => Ok(Some(unknown_archive(store, &identity))),
        None => Ok(None),
    }
}

/// What [`behind`] says of an archive that the ledger has. Reads the names of all certificates, and
/// one page of the ledger for every 20,000 passes.
///
/// # Errors
/// When something does not answer.
pub(crate) async fn is_behind(
    store: &Store,
    ledger: &dyn Ledger,
    identity: &ArchiveIdentity,
) -> Result<Option<String>, BackendError> {
    // The store first, and what is committed last: a window that is certified and committed
    // meanwhile is known by then.
    let listed = listed_certificates(store).await?;
    let highest = listed.iter().map(|name| name.epoch).max().unwrap_or(0);
    let epoch = ledger.lease_status().await?.map_or(0, |status| status.epoch);
    let found = if highest > epoch {
        format!(
            "{store} holds certificates up to epoch {highest}, and the ledger has only come to {epoch}"
        )
    } else {
        let open = ledger.open_windows().await?.iter().map(|record| record.key()).collect();
        let settled = Settled::new(&committed_passes(ledger).await?, open);
        let Some(unknown) = first_unknown(store, identity, listed, &settled).await? else {
            return Ok(None);
        };
        let certificate = names::certificate(unknown.window, unknown.epoch);
        format!("{store} holds {certificate}, of which the ledger knows nothing")
    };
    Ok(Some(format!(
        "{found}: it is older than the archive, restored from a backup perhaps. Restore a newer one, \
         or complete it from the store with `des rebuild-ledger`; nothing was changed"
    )))
}

/// The first certificate of settled rows that the ledger does not know. One of skipping settles
/// nothing, and an adjustment that died may have left it.
async fn first_unknown(
    store: &Store,
    identity: &ArchiveIdentity,
    listed: Vec<CertificateName>,
    settled: &Settled,
) -> Result<Option<CertificateName>, BackendError> {
    let unknown = |name: &CertificateName| settled.standing(*name) == Standing::Unknown;
    for name in effective_certificates(listed).into_iter().filter(unknown) {
        match read_certificate(store, identity, name).await? {
            Ok(certificate) if certificate.kind == CertificateKind::Skipped => {}
            // One that cannot be read may state anything.
            Ok(_) | Err(_) => return Ok(Some(name)),
        }
    }
    Ok(None)
}

/// The first of these uncommitted windows that has a certificate: whoever led ended between writing
/// it and committing.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn certified_already(
    store: &Store,
    open: &[WindowKey],
) -> Result<Option<CertificateName>, BackendError> {
    if open.is_empty() {
        return Ok(None);
    }
    let listed = listed_certificates(store).await?;
    Ok(listed.into_iter().find(|name| open.contains(&name.window)))
}
