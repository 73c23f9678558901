//! What `des gc` leaves of a round: everything that a certificate names, and nothing else but big
//! files, which it never removes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use protocol::{Certificate, names};

use super::oracle::{Bucket, Finding, Sin};
use super::watch::Commit;

/// Objects that are named in one finding.
const EXAMPLES: usize = 3;

/// Compares what lies in the bucket with what the committed windows name.
pub(crate) fn judge(bucket: &Bucket, commits: &[Commit]) -> anyhow::Result<Vec<Finding>> {
    let mut named = BTreeSet::from([names::ARCHIVE.to_owned()]);
    let mut replaced = BTreeSet::new();
    for commit in commits {
        let certificate = Certificate::decode(&bucket.read(&commit.certificate)?)
            .with_context(|| commit.certificate.clone())?;
        named.insert(commit.certificate.clone());
        replaced.extend(certificate.replaces);
        for partition in certificate.partitions {
            named.extend([partition.manifest, partition.receipt]);
        }
        named.extend(certificate.shards.into_iter().map(|shard| shard.key));
        named.extend(certificate.big_files.into_iter().map(|big| big.key));
    }
    let mut there = BTreeSet::new();
    let root = bucket.bucket_dir.join(bucket.prefix.trim_end_matches('/'));
    list(&root, &root, &mut there)?;
    let is_big = |key: &&String| key.starts_with(names::BIG_FILES);
    let left: Vec<_> = there.difference(&named).filter(|key| !is_big(key)).collect();
    let is_replaced = |key: &&String| replaced.contains(*key);
    let gone: Vec<_> = named.difference(&there).filter(|key| !is_replaced(key)).collect();
    let finding = |sin, keys: Vec<&String>, what: &str| {
        let examples: Vec<&str> = keys.iter().take(EXAMPLES).map(|key| key.as_str()).collect();
        let what =
            format!("after gc {} objects {what}, such as {}", keys.len(), examples.join(", "));
        (!keys.is_empty()).then(|| Finding::new(sin, keys.len() as u64, what))
    };
    let left = finding(Sin::Wrong, left, "lie there that nothing names");
    let gone = finding(Sin::Lost, gone, "are gone that a certificate names");
    Ok(left.into_iter().chain(gone).collect())
}

fn list(root: &Path, directory: &Path, found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, found)?;
        } else {
            found.insert(path.strip_prefix(root)?.display().to_string());
        }
    }
    Ok(())
}
