//! Servers of this test's own that speak TLS alone: PostgreSQL, RabbitMQ, and a proxy before an S3
//! server; and the authorities that issue their certificates, made by `openssl`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::private_postgres::{
    NEW_DATA, PASSWORD, PrivatePostgres, Shell, await_that, free_ports, succeeds,
};

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Files of a certificate for 127.0.0.1, and for no name, and of its authority.
pub(crate) struct Certificate {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// By an authority of its own.
    pub(crate) fn issue(dir: &Path) -> Self {
        std::fs::create_dir(dir).expect("made");
        let file = |name: &str| dir.join(name);
        let made = ["ca.pem", "server.pem", "ca.key", "server.key"].map(file);
        let [authority, certificate, authority_key, key] = made;
        let of_new = |key: &Path, to: &Path| {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
            openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            openssl.args(["-keyout", path(key), "-out", path(to)]);
            openssl
        };
        succeeds(of_new(&authority_key, &authority).args(["-subj", "/CN=a throwaway CA"]));
        let mut issue = of_new(&key, &certificate);
        issue
            .args(["-subj", "/CN=a server", "-CA", path(&authority), "-CAkey"])
            .arg(&authority_key);
        succeeds(issue.args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]));
        Self { authority, certificate, key }
    }
}

/// PostgreSQL that takes nobody without TLS.
pub(crate) fn postgres(of: &Certificate) -> PrivatePostgres {
    let settings = "ssl = on\nssl_cert_file = '../server.pem'\nssl_key_file = '../server.key'\n";
    let files = [(of.certificate.as_path(), "server.pem"), (of.key.as_path(), "server.key")];
    PrivatePostgres::start(
        NEW_DATA,
        settings,
        "hostssl all all 127.0.0.1/32 scram-sha-256\n",
        &files,
    )
}

/// A RabbitMQ node without a port for anybody who speaks no TLS.
pub(crate) struct Broker {
    pub(crate) port: u16,
    _shell: Shell,
    _dir: tempfile::TempDir,
}

impl Broker {
    pub(crate) fn start(of: &Certificate) -> Self {
        let dir = tempfile::Builder::new().prefix("des-tls-").tempdir_in("/tmp").expect("made");
        let [port, distribution, epmd] = free_ports();
        let settings = format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n\
             loopback_users = none\ndefault_user = des\ndefault_pass = {PASSWORD}\n",
            path(&of.authority),
            path(&of.certificate),
            path(&of.key),
        );
        std::fs::write(dir.path().join("rabbitmq.conf"), settings).expect("written");
        std::fs::write(dir.path().join("plugins"), "[].").expect("written");
        // As ./test has it: nothing of the system's broker is read.
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut command = Command::new("setsid");
        command.current_dir(dir.path()).envs([
            ("HOME", file("")),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("ERL_CRASH_DUMP_SECONDS", "0".to_owned()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            (
                "ERL_FLAGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
            ("RABBITMQ_NODENAME", format!("des-tls-{port}@localhost")),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
            ("RABBITMQ_CONFIG_FILES", file("conf.d")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins")),
            ("RABBITMQ_SCHEMA_DIR", file("schema")),
            ("RABBITMQ_MNESIA_BASE", file("data")),
            ("RABBITMQ_LOG_BASE", file("")),
            ("RABBITMQ_LOGS", file("server.log")),
        ]);
        let log = dir.path().join("log");
        let script = "epmd </dev/null & /usr/lib/rabbitmq/bin/rabbitmq-server </dev/null & \
             read -r _; kill -KILL 0";
        let shell = Shell::start(command, script, &log);
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        await_that(listens, &log); // it opens its ports last of all
        Self { port, _shell: shell, _dir: dir }
    }
}

/// A port that speaks TLS before a server that does not.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Whose tasks end with it.
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    pub(crate) fn before(target: String, of: &Certificate) -> Self {
        let chain = CertificateDer::from_pem_file(&of.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&of.key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![chain], key).expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                tokio::spawn(async move {
                    // Clients that trust nobody hang up here.
                    let mut client = acceptor.accept(client).await.ok()?;
                    let mut server = tokio::net::TcpStream::connect(target).await.ok()?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
                });
            }
        });
        Self { address, _runtime: runtime }
    }
}
