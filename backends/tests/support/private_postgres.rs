//! A PostgreSQL server of a test's own, with settings that the one of `./test` cannot have, and what it
//! takes to end a server of another program with the test, however the test ends.
//!
//! The fleet's tests use it by `#[path]`; they need `tempfile`.

use std::io::PipeWriter;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server is up long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Of the superuser `des`.
pub(crate) const PASSWORD: &str = "opensesame2";

#[track_caller]
pub(crate) fn succeeds(command: &mut Command) {
    let run = command.stdin(Stdio::null()).output();
    let run = run.unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(run.status.success(), "{command:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Ports that nobody has, and that differ.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|it| it.local_addr().expect("an address").port())
}

/// A shell in a session of its own, whose stdin ends with this process, however it ends.
pub(crate) struct Shell {
    child: Child,
    held: Option<PipeWriter>,
}

impl Shell {
    /// `command` is `setsid`, with what is to become of it. `script` reads a line of stdin, and ends what
    /// it began when there is none.
    pub(crate) fn start(mut command: Command, script: &str, log: &Path) -> Self {
        let (stdin, held) = std::io::pipe().expect("a pipe");
        let log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
        command.args(["sh", "-c", script]).stdin(stdin);
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        Self { child: command.spawn().expect("setsid"), held: Some(held) }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.held = None;
        let _it_has_ended = self.child.wait();
    }
}

/// Waits until a server is up.
#[track_caller]
pub(crate) fn await_that(is_up: impl Fn() -> bool, log: &Path) {
    let deadline = Instant::now() + LIMIT;
    while !is_up() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(Instant::now() < deadline, "it does not come up:\n{}", said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// For a server that follows no other.
pub(crate) const NEW_DATA: &str = "\"$BIN/initdb\" -D data -U des --pwfile=password \
     --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync && cp hba data/pg_hba.conf";

/// A server on 127.0.0.1 whose superuser is `des`. It ends when it is dropped.
pub(crate) struct PrivatePostgres {
    port: u16,
    _shell: Shell,
    _dir: tempfile::TempDir,
}

impl PrivatePostgres {
    /// `data` is what a shell makes the directory `data` with, such as [`NEW_DATA`]. `files` are copied
    /// beside it, under these names, and are the server's own.
    pub(crate) fn start(data: &str, settings: &str, hba: &str, files: &[(&Path, &str)]) -> Self {
        let bin = std::env::var("DES_TEST_PG_BIN").expect("DES_TEST_PG_BIN is not set: run ./test");
        // The user `postgres` must get there.
        let dir = tempfile::Builder::new().prefix("des-pg-").tempdir_in("/tmp").expect("made");
        let home = dir.path().join("postgres");
        std::fs::create_dir(&home).expect("made");
        for (from, to) in files {
            std::fs::copy(from, home.join(to)).expect("copied");
            let only_its_own = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(home.join(to), only_its_own).expect("set");
        }
        let [port] = free_ports();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
             fsync = off\n{settings}"
        );
        for (name, text) in [("password", PASSWORD), ("settings", &settings), ("hba", hba)] {
            std::fs::write(home.join(name), text).expect("written");
        }
        let mut command = Command::new("setsid");
        if std::fs::metadata("/proc/self").expect("itself").uid() == 0 {
            let everyone = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(dir.path(), everyone).expect("set");
            succeeds(Command::new("chown").args(["-R", "postgres:"]).arg(&home));
            command.args(["runuser", "-u", "postgres", "--"]);
        }
        command.current_dir(&home).env("BIN", bin);
        let script = format!(
            "{data} && cat settings >> data/postgresql.conf && \
             \"$BIN/pg_ctl\" -D data -l server.log -w -t 240 start </dev/null && : > up; read -r _; \
             \"$BIN/pg_ctl\" -D data -m immediate stop"
        );
        let log = dir.path().join("log");
        let shell = Shell::start(command, &script, &log);
        let is_up = || home.join("up").exists();
        await_that(is_up, &log);
        Self { port, _shell: shell, _dir: dir }
    }

    /// The superuser's.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://des:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }
}
