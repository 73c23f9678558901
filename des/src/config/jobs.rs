//! The configurations of one process: one for each job that it serves.
//!
//! What is a job's own must differ, and what is the process's must be the same in all of them.

use std::path::{Path, PathBuf};

use backends::queue::RabbitSettings;

use super::{Config, ConfigError, StoreConfig};

impl Config {
    /// Reads the configuration of every job that one process is to serve. A directory stands for
    /// its files that end in `.yaml` or `.yml`, in the order of their names.
    ///
    /// # Errors
    /// When one of them cannot be used, or they cannot be used together.
    pub(crate) fn load_all(paths: &[PathBuf]) -> Result<Vec<Self>, ConfigError> {
        let mut files = Vec::new();
        for path in paths {
            match path.is_dir() {
                true => files.extend(files_of(path)?),
                false => files.push(path.clone()),
            }
        }
        let configs: Vec<_> =
            files.iter().map(|path| Self::load(path)).collect::<Result<_, _>>()?;
        for (number, config) in configs.iter().enumerate() {
            for earlier in &configs[..number] {
                if let Some(why) = clash(earlier, config) {
                    let (one, other) = (earlier.path.clone(), config.path.clone());
                    return Err(ConfigError::Together { one, other, why });
                }
            }
        }
        Ok(configs)
    }

    /// Where the queues are, for a connection of this name; `None` without a broker.
    pub(crate) fn rabbit(&self, name: &str) -> Option<RabbitSettings> {
        let broker = self.broker.as_ref()?;
        let (url, prefix) = (broker.url.clone(), broker.prefix.clone());
        Some(RabbitSettings { url, prefix, name: name.to_owned() })
    }
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { path: directory.to_owned(), cause };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_yaml = path.extension().is_some_and(|it| it == "yaml" || it == "yml");
        // A ConfigMap that is mounted has its files as links beside hidden directories.
        if is_yaml && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(ConfigError::NoFiles { path: directory.to_owned() }),
        false => Ok(files),
    }
}

/// Why one process cannot serve both, and what to do. Pure.
fn clash(one: &Config, other: &Config) -> Option<String> {
    if one.job == other.job {
        return Some(format!("both are of job `{}`: give each a `job` of its own", one.job));
    }
    if one.ledger.is_some() && one.ledger == other.ledger && one.config_id == other.config_id {
        return Some(format!(
            "both keep their watermark in row {} of des_archive_config of the same database: set \
             another `watermark.config_id` in one of them",
            one.config_id
        ));
    }
    if use_same_queues(one, other) {
        let prefix = one.broker.as_ref().map_or("des", |broker| &broker.prefix);
        return Some(format!(
            "both use the queues {prefix}.* of the same broker, and each would get the other's \
             tasks: set another `broker.prefix` in one of them, such as {prefix}-{}",
            other.job
        ));
    }
    if are_same_store(&one.store, &other.store) {
        return Some(
            "both archive into the same store, which belongs to one job: set another `store.url` \
             (or `packer.output_dir`) in one of them"
                .to_owned(),
        );
    }
    differing_key(one, other).map(|key| {
        format!(
            "`{key}` is not the same in both: it is the process's, whichever of its jobs it works \
             for, so every file has to say the same"
        )
    })
}

/// A URL that cannot be right is refused by whoever connects to it.
fn use_same_queues(one: &Config, other: &Config) -> bool {
    match (one.rabbit(""), other.rabbit("")) {
        (Some(one), Some(other)) => one.are_of_same_queues(&other).unwrap_or(false),
        _ => false,
    }
}

fn are_same_store(one: &StoreConfig, other: &StoreConfig) -> bool {
    match (one, other) {
        (StoreConfig::Directory(one), StoreConfig::Directory(other)) => one == other,
        (StoreConfig::S3(one), StoreConfig::S3(other)) => {
            (&one.endpoint, &one.bucket, &one.prefix)
                == (&other.endpoint, &other.bucket, &other.prefix)
        }
        (StoreConfig::Directory(_), StoreConfig::S3(_))
        | (StoreConfig::S3(_), StoreConfig::Directory(_)) => false,
    }
}

/// The first key that is the process's own, and said differently.
fn differing_key(one: &Config, other: &Config) -> Option<&'static str> {
    let (a, b) = (&one.worker, &other.worker);
    let endpoint = |config: &Config| config.tracing.as_ref().map(|it| it.endpoint.clone());
    let keys = [
        ("worker.slots", a.slots == b.slots),
        ("worker.memory", a.memory == b.memory),
        ("worker.readers", a.readers == b.readers),
        ("worker.spool_dir", a.spool_dir == b.spool_dir),
        ("worker.drain_timeout", a.drain_timeout == b.drain_timeout),
        ("http.listen", one.http.listen == other.http.listen),
        ("http.admin_token", one.http.admin_token == other.http.admin_token),
        ("http.allowed_hosts", one.http.allowed_hosts == other.http.allowed_hosts),
        ("metrics.enabled", one.http.metrics == other.http.metrics),
        ("tracing.otlp_endpoint", endpoint(one) == endpoint(other)),
        ("tracing.sample_ratio", one.tracing == other.tracing),
    ];
    keys.into_iter().find(|(_, same)| !same).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::super::{TracingConfig, load, validate};
    use super::*;

    fn config(name: &str, text: &str) -> Config {
        let nothing_set = |_: &str| None;
        let path = Path::new(name);
        let raw = load::parse(path, text, &nothing_set).unwrap_or_else(|error| panic!("{error}"));
        validate::validate(path, raw, &nothing_set).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Two jobs that differ in all that they have to.
    fn invoices() -> Config {
        config(
            "invoices.yaml",
            "{job: invoices, database: {url: postgresql://h/d, table_name: invoices}, \
             watermark: {config_id: 1}, store: {url: 's3://b/invoices'}, \
             broker: {url: 'amqp://u:secret@broker/%2f', prefix: des-invoices}}",
        )
    }

    fn letters(change: (&str, &str)) -> Config {
        let text = "{job: letters, database: {url: postgresql://h/d, table_name: letters}, \
             watermark: {config_id: 2}, store: {url: 's3://b/letters'}, worker: {share: 3}, \
             broker: {url: 'amqp://v:other@broker:5672', prefix: des-letters}}";
        assert!(change.0.is_empty() || text.contains(change.0), "{change:?}");
        config("letters.yaml", &text.replace(change.0, change.1))
    }

    #[test]
    fn jobs_that_differ_in_what_is_theirs_go_together() {
        assert_eq!(clash(&invoices(), &letters(("letters", "letters"))), None);
    }

    #[test]
    fn what_two_jobs_cannot_share_is_named_with_what_to_do() {
        for (change, told) in [
            (("job: letters", "job: invoices"), "both are of job `invoices`"),
            (("config_id: 2", "config_id: 1"), "set another `watermark.config_id`"),
            (
                ("prefix: des-letters", "prefix: des-invoices"),
                "the queues des-invoices.* of the same broker",
            ),
            (("s3://b/letters", "s3://b/invoices"), "into the same store"),
            (("share: 3", "memory: 256MiB"), "`worker.memory` is not the same"),
            (("share: 3", "slots: 3"), "`worker.slots` is not the same"),
            (("share: 3", "readers: 3"), "`worker.readers` is not the same"),
            (("share: 3", "spool_dir: /tmp"), "`worker.spool_dir` is not the same"),
            (("share: 3", "drain_timeout: 1s"), "`worker.drain_timeout` is not the same"),
            (("job: letters", "job: letters, http: {listen: off}"), "`http.listen` is not the"),
            (
                ("job: letters", "job: letters, metrics: {enabled: false}"),
                "`metrics.enabled` is not the same",
            ),
            (
                ("job: letters", "job: letters, http: {admin_token: 0123456789abcdef}"),
                "`http.admin_token` is not the same",
            ),
            (
                ("job: letters", "job: letters, http: {allowed_hosts: [des.example.org]}"),
                "`http.allowed_hosts` is not the same",
            ),
            (
                ("job: letters", "job: letters, tracing: {otlp_endpoint: 'http://a:4318'}"),
                "`tracing.otlp_endpoint` is not the same",
            ),
        ] {
            let why = clash(&invoices(), &letters(change)).unwrap_or_else(|| panic!("{change:?}"));
            assert!(why.contains(told), "{change:?}: {why}");
            assert!(!why.contains("secret") && !why.contains("0123"), "{why}");
        }
    }

    #[test]
    fn spans_are_of_the_process_and_throttles_and_marks_of_each_job() {
        let traced = |config: Config, sample_ratio| {
            let endpoint = "http://a:4318".to_owned();
            Config { tracing: Some(TracingConfig { endpoint, sample_ratio }), ..config }
        };
        let of_its_own = letters((
            "job: letters",
            "job: letters, throttle: {max_files_per_second: 5}, \
             sync_archived: {url: 'postgresql://h/d', column: archived}",
        ));
        let (one, same) = (traced(invoices(), 1.0), traced(of_its_own, 1.0));
        assert_eq!(clash(&one, &same), None);
        let why = clash(&one, &traced(same, 0.5)).expect("they differ");
        assert!(why.contains("`tracing.sample_ratio` is not the same"), "{why}");
    }

    #[test]
    fn other_databases_and_brokers_have_rows_and_queues_of_their_own() {
        let own_ledger = ("config_id: 2", "config_id: 1, config_db_url: postgresql://h/other");
        assert_eq!(clash(&invoices(), &letters(own_ledger)), None);
        let own_broker = (
            "amqp://v:other@broker:5672', prefix: des-letters",
            "amqp://v:other@broker:5672/own', prefix: des-invoices",
        );
        assert_eq!(clash(&invoices(), &letters(own_broker)), None);
    }

    #[test]
    fn a_directory_stands_for_its_files_and_must_hold_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let nothing = Config::load_all(&[dir.path().to_owned()]).expect_err("it is empty");
        assert!(nothing.to_string().contains("holds no *.yaml"), "{nothing}");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        write("2.yml", "{job: b, packer: {output_dir: /b}}");
        write("1.yaml", "{job: a, packer: {output_dir: /a}}");
        write("notes.txt", "not one of them");
        let jobs = Config::load_all(&[dir.path().to_owned()]).expect("two jobs");
        let jobs: Vec<_> = jobs.iter().map(|config| config.job.as_str()).collect();
        assert_eq!(jobs, ["a", "b"]);
        write("3.yaml", "{job: a, packer: {output_dir: /c}}");
        let twice = Config::load_all(&[dir.path().to_owned()]).expect_err("one job twice");
        let twice = twice.to_string();
        assert!(twice.contains("1.yaml") && twice.contains("3.yaml"), "{twice}");
    }
}
