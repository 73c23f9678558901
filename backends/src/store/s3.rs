//! Where a bucket lies and how it is spoken to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
};

use super::fault::store_error;
use super::{PART_BYTES, PARTS_IN_FLIGHT, Parts, Store, time_for};
use crate::error::Result;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this long is given up. It is silent while a body is sent, so
/// this is the time that the largest bodies in flight may take.
const SILENCE_TIMEOUT: Duration = time_for((PART_BYTES * PARTS_IN_FLIGHT) as u64);

/// Where an S3 archive lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// Prefix inside the bucket, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The server, such as `http://127.0.0.1:3900`; `None` for AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`.
    pub path_style: bool,
    /// Storage class for new objects, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// Server-side encryption: `AES256`, or `aws:kms` with `sse_kms_key_id`.
    pub server_side_encryption: Option<String>,
    /// Key for `aws:kms`.
    pub sse_kms_key_id: Option<String>,
    /// Who asks. `None` for `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and
    /// `AWS_SESSION_TOKEN`) of the environment, or else the machine's role.
    pub credentials: Option<S3Credentials>,
}

/// A pair of keys.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A bucket on S3 or a compatible server.
    ///
    /// # Errors
    /// When the settings contradict each other. Nothing is connected yet; see [`Store::check`].
    pub fn s3(settings: &S3Settings) -> Result<Self> {
        let mut builder = AmazonS3Builder::from_env();
        let endpoint = settings.endpoint.clone().or_else(|| {
            let of_s3 = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
            of_s3.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint))
        });
        let place = endpoint.as_deref().unwrap_or("AWS");
        let slash = if settings.prefix.is_empty() { "" } else { "/" };
        let what =
            format!("the bucket s3://{}{slash}{} at {place}", settings.bucket, settings.prefix);
        builder = builder
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_client_options(client_options(place))
            .with_retry(retry())
            // Not every server knows how to delete many at once, and we delete one at a time.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = &endpoint {
            let endpoint = match settings.path_style {
                true => endpoint.clone(),
                false => with_bucket_in_host(endpoint, &settings.bucket),
            };
            // Of the two endpoints that the environment may hold, this is the one that counts.
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(credentials) = &settings.credentials {
            builder =
                builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                    key_id: credentials.access_key_id.clone(),
                    secret_key: credentials.secret_access_key.clone(),
                    token: None,
                })));
        }
        if let Some(encryption) = &settings.server_side_encryption {
            let key = "aws_server_side_encryption"
                .parse()
                .map_err(|error| store_error(what.clone(), error))?;
            builder = builder.with_config(key, encryption);
        }
        if let Some(key) = &settings.sse_kms_key_id {
            builder = builder.with_sse_kms_encryption(key);
        }
        let bucket = builder.build().map_err(|error| store_error(what.clone(), error))?;
        let mut attributes = Attributes::new();
        if let Some(class) = &settings.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        let objects: Arc<dyn ObjectStore> = if settings.prefix.is_empty() {
            Arc::new(bucket)
        } else {
            Arc::new(PrefixStore::new(bucket, settings.prefix.as_str()))
        };
        let parts = Parts::new();
        let description = what.into();
        Ok(Self { objects, directory: None, synced: None, parts, attributes, description })
    }
}

fn client_options(place: &str) -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(SILENCE_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(place.starts_with("http://"))
}

/// A short retry hides blips; whatever lasts longer is the caller's to wait out, with its reason
/// visible: about a second where a connection is refused, 20 s where nothing answers it.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() }
}

/// `https://host` becomes `https://bucket.host`, unless it is that already.
fn with_bucket_in_host(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !host.starts_with(&format!("{bucket}.")) => {
            format!("{scheme}://{bucket}.{host}")
        }
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_goes_into_the_host_once() {
        let at = |endpoint| with_bucket_in_host(endpoint, "files");
        assert_eq!(at("https://s3.example:9000"), "https://files.s3.example:9000");
        assert_eq!(at("https://files.s3.example"), "https://files.s3.example");
    }

    #[test]
    fn a_slow_link_may_send_all_its_parts() {
        let part = time_for(PART_BYTES as u64);
        assert!(SILENCE_TIMEOUT > part);
    }
}
