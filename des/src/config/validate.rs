//! From [`RawConfig`] to [`Config`]: what is required, what the ranges are, what fits together.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backends::catalog::CatalogTable;
use backends::store::S3Settings;
use coordinator::attempts::AttemptLimits;
use coordinator::decide::FailureLimits;
use protocol::codec::CompressionCodec;
use protocol::{NBits, PackSettings};

use super::load::ConfigError;
use super::raw::{
    Lenient, RawConfig, RawDatabase, RawHttp, RawMetrics, RawPacker, RawStore, RawTracing, Secret,
    Size, Span,
};
use super::sync;
use super::throttle::throttle_settings;
use super::urls::bucket_and_prefix;
use super::{
    AdminToken, BrokerConfig, Config, CoordinatorConfig, DatabaseUrl, HttpConfig, StoreConfig,
    TracingConfig, WorkerConfig,
};

const MIB: u64 = 1024 * 1024;
/// Where services answer unless they are told otherwise.
const DEFAULT_PORT: u16 = 8080;
/// The least memory a worker can do its work in.
const LEAST_WORKER_MEMORY: u64 = 32 * MIB;
/// Shares are small numbers: one job may be so many times another.
const LARGEST_SHARE: u16 = 100;
/// The least that sorting a window makes sense with.
const LEAST_SORT_MEMORY: u64 = MIB;
/// A window that is compared with the catalog later than this is not compared at all.
const LONGEST_RECHECK: Duration = Duration::from_secs(366 * 86_400);
/// A lag beyond this is a mistake rather than a wish.
const MOST_LAG_DAYS: i64 = 36_500;

/// Names the key of a complaint.
pub(super) struct Complaints<'a> {
    path: &'a Path,
}

impl Complaints<'_> {
    pub(super) fn at(&self, key: &str, why: impl Into<String>) -> ConfigError {
        ConfigError::Value { path: self.path.to_owned(), key: key.to_owned(), why: why.into() }
    }

    pub(super) fn positive<T: PartialOrd + Default + std::fmt::Display>(
        &self,
        key: &str,
        value: T,
    ) -> Result<T, ConfigError> {
        if value > T::default() {
            Ok(value)
        } else {
            Err(self.at(key, format!("it is {value}, and must be more than zero")))
        }
    }

    fn at_least(&self, key: &str, value: u64, least: u64) -> Result<usize, ConfigError> {
        if value < least {
            let least = bytesize::ByteSize(least);
            return Err(self.at(key, format!("it is {value} bytes, and must be at least {least}")));
        }
        usize::try_from(value).map_err(|_too_large| self.at(key, "it is too large"))
    }
}

pub(super) fn validate(
    path: &Path,
    raw: RawConfig,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let complain = Complaints { path };
    let RawConfig {
        job,
        database,
        packer,
        watermark,
        metrics,
        broker,
        store,
        source,
        worker,
        coordinator,
        throttle,
        http,
        tracing,
        sync_archived,
    } = raw;
    let job = job.unwrap_or_else(|| "default".to_owned());
    let job = job.parse().map_err(|error| complain.at("job", format!("{error}")))?;
    let catalog = database_url(&complain, "database.url", database.url.as_ref())?;
    let ledger =
        database_url(&complain, "watermark.config_db_url", watermark.config_db_url.as_ref())?
            .or_else(|| catalog.clone());
    let default_archived_until = watermark
        .default_archived_until
        .map(|text| {
            let key = "watermark.default_archived_until";
            let time: protocol::Timestamp =
                text.parse().map_err(|error| complain.at(key, format!("{error}")))?;
            if time.is_whole_second() {
                Ok(time)
            } else {
                Err(complain.at(key, "it must be a whole second"))
            }
        })
        .transpose()?;
    let lag_days = lag_days(&complain, &database)?;
    complain.positive("database.page_size", database.page_size.map_or(1, |Lenient(rows)| rows))?;
    let pack = pack_settings(&complain, &packer, variable)?;
    let broker = broker
        .map(|broker| {
            let url = broker.url.ok_or_else(|| complain.at("broker.url", "it is required"))?.0;
            if !(url.starts_with("amqp://") || url.starts_with("amqps://")) {
                return Err(complain.at("broker.url", "use amqp://user:password@host:5672/%2f"));
            }
            let prefix = broker.prefix.unwrap_or_else(|| "des".to_owned());
            let valid = prefix.parse::<protocol::Job>().is_ok();
            let rule = "use 1 to 64 letters, digits, `-`, `_` or `.`";
            if valid {
                Ok(BrokerConfig { url, prefix })
            } else {
                Err(complain.at("broker.prefix", rule))
            }
        })
        .transpose()?;
    let throttle = throttle_settings(&complain, throttle, catalog.as_ref())?;
    Ok(Config {
        path: path.to_owned(),
        job,
        table: table(&complain, database)?,
        database: catalog,
        lag_days,
        pack,
        ledger,
        config_id: watermark.config_id.map_or(1, |Lenient(id)| id),
        default_archived_until,
        broker,
        store: store_config(&complain, store, packer.output_dir)?,
        roots: source.roots.iter().map(PathBuf::from).collect(),
        worker: worker_config(&complain, &worker)?,
        coordinator: coordinator_config(&complain, &coordinator)?,
        throttle,
        http: http_config(&complain, &http, &metrics)?,
        tracing: tracing_config(&complain, tracing, variable)?,
        sync_archived: sync_archived.map(|raw| sync::sync_archived(&complain, raw)).transpose()?,
    })
}

pub(super) fn database_url(
    complain: &Complaints<'_>,
    key: &str,
    url: Option<&Secret>,
) -> Result<Option<DatabaseUrl>, ConfigError> {
    url.map(|Secret(url)| DatabaseUrl::parse(url).map_err(|why| complain.at(key, why))).transpose()
}

fn lag_days(complain: &Complaints<'_>, database: &RawDatabase) -> Result<u32, ConfigError> {
    let days = database.lag_days.map_or(7, |Lenient(days)| days);
    u32::try_from(days).ok().filter(|_| days <= MOST_LAG_DAYS).ok_or_else(|| {
        complain.at(
            "database.lag_days",
            format!("it is {days}, and must lie in 0..{MOST_LAG_DAYS}: files younger than this many days are left alone"),
        )
    })
}

fn table(complain: &Complaints<'_>, database: RawDatabase) -> Result<CatalogTable, ConfigError> {
    let named = |key: &str, value: Option<String>, default: &str| match value {
        Some(name) if name.trim().is_empty() => Err(complain.at(key, "it is empty")),
        Some(name) => Ok(name),
        None => Ok(default.to_owned()),
    };
    Ok(CatalogTable {
        table: named("database.table_name", database.table_name, "files")?,
        uid: named("database.uid_column", database.uid_column, "uid")?,
        created_at: named("database.created_at_column", database.created_at_column, "created_at")?,
        location: named("database.location_column", database.location_column, "file_location")?,
        size: database
            .size_column
            .map(|name| named("database.size_column", Some(name), ""))
            .transpose()?,
    })
}

fn pack_settings(
    complain: &Complaints<'_>,
    packer: &RawPacker,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<PackSettings, ConfigError> {
    let defaults = PackSettings::default();
    let bits = packer.n_bits.map_or(i64::from(defaults.n_bits.get()), |Lenient(bits)| bits);
    let n_bits = u8::try_from(bits).ok().and_then(|bits| NBits::new(bits).ok());
    let n_bits = n_bits.ok_or_else(|| {
        complain.at("packer.n_bits", protocol::routing::InvalidNBits(bits).to_string())
    })?;
    let compression = &packer.compression;
    let enabled = compression.enabled.is_none_or(|Lenient(enabled)| enabled);
    let codec = match compression.codec.as_deref().map(str::to_ascii_lowercase).as_deref() {
        _ if !enabled => CompressionCodec::None,
        None | Some("zstd") => CompressionCodec::Zstd,
        Some("lz4") => CompressionCodec::Lz4,
        Some("none") => CompressionCodec::None,
        Some(other) => {
            let why = format!("`{other}` is not a codec: use zstd, lz4 or none");
            return Err(complain.at("packer.compression.codec", why));
        }
    };
    let level = compression.level.map_or(i64::from(defaults.level), |Lenient(level)| level);
    let level = i32::try_from(level).ok().filter(|level| (1..=22).contains(level));
    let level =
        level.ok_or_else(|| complain.at("packer.compression.level", "it must lie in 1..22"))?;
    let max_shard_size = packer.max_shard_size.map_or(defaults.max_shard_size, |Size(bytes)| bytes);
    Ok(PackSettings {
        n_bits,
        codec,
        level,
        max_shard_size: complain.positive("packer.max_shard_size", max_shard_size)?,
        big_file_threshold: big_file_threshold(complain, packer, variable)?,
    })
}

/// The key, or the environment variable that the format's packers read, or 10 MiB.
fn big_file_threshold(
    complain: &Complaints<'_>,
    packer: &RawPacker,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<u64, ConfigError> {
    const VARIABLE: &str = "DES_BIG_FILE_THRESHOLD_BYTES";
    let (key, bytes) = match (packer.big_file_threshold, variable(VARIABLE)) {
        (Some(Size(bytes)), _) => ("packer.big_file_threshold", bytes),
        (None, Some(text)) => {
            let bytes = text.trim().parse();
            (VARIABLE, bytes.map_err(|_no| complain.at(VARIABLE, "it is not a number of bytes"))?)
        }
        (None, None) => return Ok(PackSettings::DEFAULT_BIG_FILE_THRESHOLD),
    };
    let most = PackSettings::MAX_BIG_FILE_THRESHOLD;
    if (1..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(complain.at(key, format!("it is {bytes} bytes, and must lie in 1..{most}")))
    }
}

fn store_config(
    complain: &Complaints<'_>,
    store: Option<RawStore>,
    output_dir: Option<String>,
) -> Result<StoreConfig, ConfigError> {
    let store = store.unwrap_or_default();
    let Some(url) = store.url else {
        let directory = output_dir.filter(|it| !it.is_empty()).ok_or_else(|| {
            complain.at("packer.output_dir", "it is required, or store.url: where the archive goes")
        })?;
        return match directory.strip_prefix("s3://") {
            Some(_) => Err(complain.at("packer.output_dir", "a bucket goes into store.url")),
            None => Ok(StoreConfig::Directory(directory.into())),
        };
    };
    if let Some(directory) = url.strip_prefix("file://") {
        if !directory.starts_with('/') {
            return Err(complain.at("store.url", "use file:///directory, with an absolute path"));
        }
        return Ok(StoreConfig::Directory(directory.into()));
    }
    let rest = url.strip_prefix("s3://").ok_or_else(|| {
        complain.at("store.url", "it is not a store: use s3://bucket/prefix or file:///directory")
    })?;
    let (bucket, prefix) = bucket_and_prefix(rest).map_err(|why| complain.at("store.url", why))?;
    // An empty text, as of a variable that is not set, says nothing.
    let said = |text: Option<String>| text.filter(|it| !it.is_empty());
    let endpoint = said(store.endpoint);
    if let Some(endpoint) = &endpoint
        && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
    {
        return Err(complain.at("store.endpoint", "use http://host:port or https://host:port"));
    }
    Ok(StoreConfig::S3(S3Settings {
        bucket,
        prefix,
        path_style: store.path_style.map_or(endpoint.is_some(), |Lenient(path_style)| path_style),
        endpoint,
        region: said(store.region).unwrap_or_else(|| "us-east-1".to_owned()),
        storage_class: said(store.storage_class),
        server_side_encryption: said(store.server_side_encryption),
        sse_kms_key_id: said(store.sse_kms_key_id),
        credentials: None,
    }))
}

/// `http.listen`; else the port of the predecessor's `metrics` section, on loopback; else the
/// default.
fn http_config(
    complain: &Complaints<'_>,
    http: &RawHttp,
    metrics: &RawMetrics,
) -> Result<HttpConfig, ConfigError> {
    let enabled = metrics.enabled.is_none_or(|Lenient(enabled)| enabled);
    let token = http.admin_token.as_ref().filter(|Secret(token)| !token.is_empty());
    let admin_token = token
        .map(|Secret(token)| AdminToken::new(token))
        .transpose()
        .map_err(|why| complain.at("http.admin_token", why))?;
    let allowed_hosts = http.allowed_hosts.iter().map(|host| host_name(complain, host));
    let allowed_hosts = allowed_hosts.collect::<Result<_, _>>()?;
    let at = |listen, chosen| HttpConfig {
        listen,
        chosen,
        metrics: enabled,
        admin_token,
        allowed_hosts,
    };
    let port = metrics.port.filter(|_| enabled).map(|Lenient(port)| port);
    match (&http.listen, port) {
        (Some(Lenient(text)), _) if matches!(text.as_str(), "off" | "false" | "no" | "none") => {
            Ok(at(None, true))
        }
        (Some(Lenient(text)), _) => {
            let text = text.replace("localhost:", "127.0.0.1:");
            let address = text.parse().map_err(|_not_an_address| {
                let why = "use an address and a port, such as 127.0.0.1:8080, or off";
                complain.at("http.listen", format!("`{text}` is no address: {why}"))
            })?;
            Ok(at(Some(address), true))
        }
        (None, Some(port)) => Ok(at(Some((Ipv4Addr::LOCALHOST, port).into()), true)),
        (None, None) => Ok(at(Some((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into()), false)),
    }
}

/// A name as a browser sends it, without its port.
fn host_name(complain: &Complaints<'_>, host: &str) -> Result<String, ConfigError> {
    let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_');
    match !host.is_empty() && host.chars().all(plain) {
        true => Ok(host.to_ascii_lowercase()),
        false => Err(complain.at(
            "http.allowed_hosts",
            format!("`{host}` is no name: give it alone, such as des.example.org, without a port"),
        )),
    }
}

fn tracing_config(
    complain: &Complaints<'_>,
    tracing: RawTracing,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<TracingConfig>, ConfigError> {
    let configured = tracing.otlp_endpoint.map(|Secret(url)| url);
    let sample_ratio = tracing.sample_ratio.map_or(1.0, |Lenient(ratio)| ratio);
    TracingConfig::new(configured, sample_ratio, variable)
        .map_err(|(key, why)| complain.at(key, why))
}

fn worker_config(
    complain: &Complaints<'_>,
    worker: &super::raw::RawWorker,
) -> Result<WorkerConfig, ConfigError> {
    let memory = worker.memory.map_or(192 * MIB, |Size(bytes)| bytes);
    let slots =
        worker.slots.map(|Lenient(slots)| complain.positive("worker.slots", slots)).transpose()?;
    let readers = worker.readers.map_or(2, |Lenient(readers)| readers);
    let share = worker.share.map_or(1, |Lenient(share)| share);
    if !(1..=LARGEST_SHARE).contains(&share) {
        let why = format!("it is {share}, and must lie in 1..{LARGEST_SHARE}");
        return Err(complain.at("worker.share", why));
    }
    Ok(WorkerConfig {
        slots,
        memory: complain.at_least("worker.memory", memory, LEAST_WORKER_MEMORY)?,
        readers: complain.positive("worker.readers", readers)?.into(),
        share,
        spool_dir: spool_dir(worker.spool_dir.as_ref()),
        drain_timeout: worker.drain_timeout.map_or(Duration::from_secs(300), |Span(time)| time),
    })
}

fn spool_dir(configured: Option<&String>) -> PathBuf {
    configured.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

fn coordinator_config(
    complain: &Complaints<'_>,
    coordinator: &super::raw::RawCoordinator,
) -> Result<CoordinatorConfig, ConfigError> {
    let span = coordinator.window_span.map_or(Duration::from_secs(86_400), |Span(span)| span);
    let whole = span.subsec_nanos() == 0 && span.as_secs() > 0 && span.as_secs() <= 366 * 86_400;
    let span_micros = i64::try_from(span.as_micros()).ok().filter(|_| whole).ok_or_else(|| {
        complain
            .at("coordinator.window_span", "it must be whole seconds, at least one, at most a year")
    })?;
    let windows = coordinator.windows_in_flight.map_or(2, |Lenient(windows)| windows);
    let rows = coordinator.partition_rows.map_or(50_000, |Lenient(rows)| rows);
    let seconds = coordinator.partition_seconds.map_or(120, |Lenient(seconds)| seconds);
    let lease_ttl = coordinator.lease_ttl.map_or(Duration::from_secs(15), |Span(ttl)| ttl);
    if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&lease_ttl) {
        return Err(complain.at("coordinator.lease_ttl", "it must lie in 1s..1h"));
    }
    let ratio = coordinator.max_failed_ratio.map_or(0.001, |Lenient(ratio)| ratio);
    if !(0.0..=1.0).contains(&ratio) {
        return Err(complain.at("coordinator.max_failed_ratio", "it must lie in 0..1"));
    }
    let sort_memory = coordinator.sort_memory.map_or(64 * MIB, |Size(bytes)| bytes);
    let attempts = coordinator.max_attempts.map_or(5, |Lenient(attempts)| attempts);
    let grace = coordinator.gc_grace.map_or(Duration::from_secs(7 * 86_400), |Span(grace)| grace);
    complain.positive("coordinator.gc_grace", grace.as_secs())?;
    let recheck = coordinator.recheck_after.map_or(Duration::from_secs(3_600), |Span(after)| after);
    if recheck > LONGEST_RECHECK {
        return Err(complain.at("coordinator.recheck_after", "it must be at most 366d"));
    }
    Ok(CoordinatorConfig {
        window_span_micros: span_micros,
        windows_in_flight: complain.positive("coordinator.windows_in_flight", windows)?.into(),
        partition_rows: complain.positive("coordinator.partition_rows", rows)?,
        partition_time: Duration::from_secs(
            complain.positive("coordinator.partition_seconds", seconds)?,
        ),
        sort_memory: complain.at_least(
            "coordinator.sort_memory",
            sort_memory,
            LEAST_SORT_MEMORY,
        )?,
        spool_dir: spool_dir(coordinator.spool_dir.as_ref()),
        lease_ttl,
        failures: FailureLimits {
            files: coordinator.max_failed_files.map_or(10, |Lenient(files)| files),
            ratio,
        },
        recheck_after: (!recheck.is_zero()).then_some(recheck),
        attempts: AttemptLimits {
            attempts: complain.positive("coordinator.max_attempts", attempts)?,
        },
        gc_grace: grace,
    })
}
