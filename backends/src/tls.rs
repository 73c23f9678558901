//! What to do about a server whose certificate is not to be trusted from here.

/// What rustls, which all clients use, begins its refusals of a certificate with. The clients hand
/// on the text of an error, and not its type.
const REFUSED: &str = "invalid peer certificate";

/// For clients that check against the system's store: brokers and object stores.
pub(crate) const BY_SYSTEM: &str = "the server's certificate is not trusted here: put the CA that \
     issued it into the system's store, or name its PEM file by the environment variable \
     SSL_CERT_FILE; and use a host name that the certificate holds";

/// For PostgreSQL.
pub(crate) const BY_URL: &str = "the server's certificate is not trusted here: name the PEM file of \
     the CA that issued it by sslrootcert=... at the end of the database's URL; and use a host name \
     that the certificate holds";

/// Whether an error, as it is told, is the refusal of a server's certificate.
pub(crate) fn is_certificate_refused(told: &str) -> bool {
    told.contains(REFUSED)
}
