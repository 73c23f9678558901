//! Manifests, receipts, certificates, the archive's identity and messages: written and read, of
//! this release and of every one before it.

mod fixtures;
mod json;
mod manifest;
mod values;
