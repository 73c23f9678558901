//! The configuration: parsed raw, validated once into values that cannot be wrong, then never
//! changed.

mod admin_token;
mod jobs;
mod load;
mod raw;
mod sync;
mod throttle;
mod traces;
mod urls;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use backends::catalog::CatalogTable;
use backends::store::S3Settings;
use coordinator::attempts::AttemptLimits;
use coordinator::decide::FailureLimits;
use coordinator::throttle::ThrottleSettings;
use protocol::{Job, PackSettings, Timestamp};

pub(crate) use admin_token::AdminToken;
pub(crate) use load::{ConfigError, REFERENCE};
pub(crate) use sync::SyncArchivedConfig;
pub(crate) use traces::TracingConfig;
pub(crate) use urls::DatabaseUrl;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) job: Job,
    /// Absent for those who need none: workers, and whoever reads the archive.
    database: Option<DatabaseUrl>,
    pub(crate) table: CatalogTable,
    pub(crate) lag_days: u32,
    pub(crate) pack: PackSettings,
    ledger: Option<DatabaseUrl>,
    pub(crate) config_id: i32,
    pub(crate) default_archived_until: Option<Timestamp>,
    pub(crate) broker: Option<BrokerConfig>,
    pub(crate) store: StoreConfig,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) worker: WorkerConfig,
    pub(crate) coordinator: CoordinatorConfig,
    pub(crate) throttle: ThrottleSettings,
    pub(crate) http: HttpConfig,
    /// `None`: nothing is traced.
    pub(crate) tracing: Option<TracingConfig>,
    /// `None`: nothing of the catalog is ever written.
    pub(crate) sync_archived: Option<SyncArchivedConfig>,
}

/// Where a service answers over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpConfig {
    /// `None`: nowhere.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the address was chosen by whoever wrote the configuration: then it must be free.
    pub(crate) chosen: bool,
    /// Whether there is `/metrics` among what is served.
    pub(crate) metrics: bool,
    /// What whoever acts from the page has to know; `None`: nobody may.
    pub(crate) admin_token: Option<AdminToken>,
    /// Names, in lower case, besides addresses and localhost, under which the page is asked for.
    pub(crate) allowed_hosts: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct BrokerConfig {
    pub(crate) url: String,
    pub(crate) prefix: String,
}

impl std::fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerConfig").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreConfig {
    Directory(PathBuf),
    S3(S3Settings),
}

#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// `None`: as many as there are cores, or 2 in a worker process.
    pub(crate) slots: Option<u16>,
    pub(crate) memory: usize,
    pub(crate) readers: usize,
    /// Slot time compared with that of the other jobs of the same worker processes.
    pub(crate) share: u16,
    pub(crate) spool_dir: PathBuf,
    pub(crate) drain_timeout: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct CoordinatorConfig {
    pub(crate) window_span_micros: i64,
    pub(crate) windows_in_flight: usize,
    pub(crate) partition_rows: u64,
    pub(crate) partition_time: Duration,
    pub(crate) sort_memory: usize,
    pub(crate) spool_dir: PathBuf,
    pub(crate) lease_ttl: Duration,
    pub(crate) failures: FailureLimits,
    pub(crate) attempts: AttemptLimits,
    pub(crate) gc_grace: Duration,
    /// `None`: committed windows are not looked at again.
    pub(crate) recheck_after: Option<Duration>,
}

impl Config {
    /// Reads, parses and validates the file at `path`.
    ///
    /// # Errors
    /// When something about it is wrong; the message names the key and what to do.
    pub(crate) fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(path, &text, &|name| std::env::var(name).ok())
    }

    /// Parses and validates the text of a file; `path` is for messages, `variable` looks up the
    /// environment.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn parse(
        path: &std::path::Path,
        text: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        validate::validate(path, load::parse(path, text, variable)?, variable)
    }

    /// The database that holds the table of files.
    ///
    /// # Errors
    /// When none is configured.
    pub(crate) fn database(&self) -> Result<&DatabaseUrl, ConfigError> {
        self.database.as_ref().ok_or_else(|| {
            self.required("database.url", "the database that holds the table of files")
        })
    }

    /// The database that holds the watermark and des's tables.
    ///
    /// # Errors
    /// When none is configured.
    pub(crate) fn ledger(&self) -> Result<&DatabaseUrl, ConfigError> {
        self.ledger.as_ref().ok_or_else(|| {
            self.required("watermark.config_db_url", "the database that holds the watermark")
        })
    }

    fn required(&self, key: &str, what: &str) -> ConfigError {
        let why = format!("it is required here: {what}");
        ConfigError::Value { path: self.path.clone(), key: key.to_owned(), why }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let nothing_set = |_: &str| None;
        let path = Path::new("des.yaml");
        let raw = load::parse(path, text, &nothing_set).unwrap_or_else(|error| panic!("{error}"));
        validate::validate(path, raw, &nothing_set).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_reference_is_valid_and_states_the_defaults() {
        let reference = config(REFERENCE);
        let least = config("{database: {url: postgresql://h/d}, packer: {output_dir: /archive}}");
        assert_eq!(reference.job, least.job);
        assert_eq!(reference.lag_days, least.lag_days);
        assert_eq!(reference.config_id, least.config_id);
        assert_eq!(reference.roots, least.roots);
        assert_eq!(format!("{:?}", reference.pack), format!("{:?}", least.pack));
        let (stated, default) = (&reference.coordinator, &least.coordinator);
        assert_eq!(format!("{stated:?}"), format!("{default:?}"));
        assert_eq!(reference.throttle, least.throttle);
        let worker = WorkerConfig { slots: None, ..reference.worker };
        assert_eq!(format!("{worker:?}"), format!("{:?}", least.worker));
        assert_eq!(reference.http.listen, least.http.listen);
        assert_eq!(reference.http.metrics, least.http.metrics);
        assert_eq!((reference.tracing, least.tracing), (None, None));
        let StoreConfig::S3(s3) = &reference.store else { panic!("{:?}", reference.store) };
        assert_eq!(s3.sse_kms_key_id, None, "an empty text says nothing");
        let columns = CatalogTable { size: None, ..reference.table };
        assert_eq!(format!("{columns:?}"), format!("{:?}", least.table));
    }

    #[test]
    fn names_of_the_page_are_names() {
        let hosts = |hosts: &str| {
            let text = format!("{{packer: {{output_dir: /a}}, http: {{allowed_hosts: {hosts}}}}}");
            let raw = load::parse(Path::new("des.yaml"), &text, &|_| None).expect("it parses");
            let config = validate::validate(Path::new("des.yaml"), raw, &|_| None);
            config.map(|it| it.http.allowed_hosts).map_err(|error| error.to_string())
        };
        assert_eq!(
            hosts("[Des.example.org, des]"),
            Ok(vec!["des.example.org".into(), "des".into()])
        );
        for refused in ["['des:8080']", "['https://des']", "['']", "['*']"] {
            let error = hosts(refused).expect_err(refused);
            assert!(error.contains("`http.allowed_hosts`"), "{error}");
        }
    }

    #[test]
    fn http_is_served_where_the_keys_say() {
        let http = |keys: &str| {
            let text = format!("{{packer: {{output_dir: /archive}}, {keys}}}");
            let HttpConfig { listen, chosen, metrics, admin_token, allowed_hosts } =
                config(&text).http;
            assert_eq!(admin_token, None, "nobody acts without one");
            assert!(allowed_hosts.is_empty());
            let listen = listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
            (listen, chosen, metrics)
        };
        let at = |address: &str, chosen, metrics| (address.to_owned(), chosen, metrics);
        assert_eq!(http("job: a"), at("127.0.0.1:8080", false, true));
        assert_eq!(http("http: {listen: '0.0.0.0:80'}"), at("0.0.0.0:80", true, true));
        assert_eq!(http("http: {listen: 'localhost:0'}"), at("127.0.0.1:0", true, true));
        for off in ["null", "off", "false", "'off'"] {
            assert_eq!(http(&format!("http: {{listen: {off}}}")), at("off", true, true), "{off}");
        }
        assert_eq!(http("http: {}"), at("127.0.0.1:8080", false, true));
        // The predecessor's section.
        let seed = "metrics: {enabled: true, port: 9090}";
        assert_eq!(http(seed), at("127.0.0.1:9090", true, true));
        let both = format!("{seed}, http: {{listen: '[::1]:81'}}");
        assert_eq!(http(&both), at("[::1]:81", true, true));
        let no_metrics = "metrics: {enabled: false, port: 9090}";
        assert_eq!(http(no_metrics), at("127.0.0.1:8080", false, false));
        assert_eq!(
            http("metrics: {enabled: false}, http: {listen: '1.2.3.4:5'}"),
            at("1.2.3.4:5", true, false)
        );
    }

    #[test]
    fn a_token_is_long_and_plain_or_there_is_none() {
        let token = |token: &str| {
            let text = format!("{{packer: {{output_dir: /a}}, http: {{admin_token: '{token}'}}}}");
            let path = Path::new("des.yaml");
            let raw = load::parse(path, &text, &|_: &str| None).expect("it parses");
            assert!(token.is_empty() || !format!("{raw:?}").contains(token), "it is printed");
            let config = validate::validate(path, raw, &|_: &str| None);
            config.map(|it| it.http.admin_token).map_err(|error| error.to_string())
        };
        let accepted =
            token("0123456789abcdef").expect("sixteen are enough").expect("there is one");
        assert!(accepted.matches("0123456789abcdef") && !accepted.matches("0123456789abcdeF"));
        assert!(!format!("{accepted:?}").contains("0123"));
        assert_eq!(token(""), Ok(None), "as an empty default leaves it");
        for refused in ["0123456789abcde", "0123456789abcdef ", "zażółć gęślą jaźń"] {
            let error = token(refused).expect_err(refused);
            assert!(error.contains("`http.admin_token`") && !error.contains(refused), "{error}");
        }
    }

    #[test]
    fn traces_go_where_the_key_or_the_environment_says() {
        let tracing = |section: &str, variable: Option<&str>| {
            let text = format!("{{packer: {{output_dir: /a}}, tracing: {{{section}}}}}");
            let path = Path::new("des.yaml");
            let raw = load::parse(path, &text, &|_: &str| None).expect("it parses");
            assert!(!format!("{raw:?}").contains("//"), "the endpoint is printed");
            let set = |name: &str| {
                variable.filter(|_| name == "OTEL_EXPORTER_OTLP_ENDPOINT").map(str::to_owned)
            };
            let config = validate::validate(path, raw, &set).map_err(|error| error.to_string())?;
            Ok::<_, String>(config.tracing.map(|it| (it.endpoint, it.sample_ratio)))
        };
        let to = |endpoint: &str, ratio| Ok(Some((endpoint.to_owned(), ratio)));
        assert_eq!(tracing("", None), Ok(None));
        assert_eq!(tracing("otlp_endpoint: ''", Some("")), Ok(None));
        assert_eq!(tracing("otlp_endpoint: 'http://a:4318/'", None), to("http://a:4318", 1.0));
        assert_eq!(tracing("sample_ratio: 0.5", Some("https://b/x")), to("https://b/x", 0.5));
        let both = tracing("otlp_endpoint: 'http://a'", Some("http://b"));
        assert_eq!(both, to("http://a", 1.0));
        let paper = include_str!("../../../docs/tracing.md");
        let block = paper.split("```yaml\n").nth(1).and_then(|it| it.split("```").next());
        let paper = format!("packer: {{output_dir: /a}}\n{}", block.expect("a block"));
        assert_eq!(config(&paper).tracing.expect("it traces").sample_ratio, 1.0);
        for (section, variable, told) in [
            ("otlp_endpoint: 'collector:4318'", None, "http://host:4318"),
            ("", Some("collector:4318"), "`OTEL_EXPORTER_OTLP_ENDPOINT`"),
            ("otlp_endpoint: 'http://'", None, "http://host:4318"),
            ("otlp_endpoint: 'http://u:secret@a'", None, "OTEL_EXPORTER_OTLP_HEADERS"),
            ("otlp_endpoint: 'http://a', sample_ratio: 1.5", None, "`tracing.sample_ratio`"),
            ("sample_ratio: -0.1", None, "0..1"),
        ] {
            let error = tracing(section, variable).expect_err(section);
            assert!(error.contains(told) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        let nothing_set = |_: &str| None;
        let text = "{packer: {output_dir: /archive}, http: {listen: here}}";
        let raw = load::parse(Path::new("des.yaml"), text, &nothing_set).expect("it parses");
        let error = validate::validate(Path::new("des.yaml"), raw, &nothing_set);
        let error = error.expect_err("it is refused").to_string();
        assert!(error.contains("`http.listen`") && error.contains("127.0.0.1:8080"), "{error}");
    }

    #[test]
    fn the_reference_has_every_key() {
        let fields = include_str!("raw.rs").lines().filter_map(|line| {
            line.strip_prefix("    pub(crate) ")?.split_once(':').map(|(name, _)| name)
        });
        let mut count = 0;
        for key in fields {
            let written = |line: &str| line.trim_start().starts_with(&format!("{key}:"));
            assert!(REFERENCE.lines().any(written), "{key} is missing");
            count += 1;
        }
        assert!(count > 40, "the keys were not found");
    }
}
