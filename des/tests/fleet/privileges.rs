//! docs/security.md as it is written: its roles, its bucket policies and its broker permissions are
//! enough for a fleet and its operators, and not more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use rustix::process::Signal;
use s3s::HttpRequest;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::blocks::{Block, blocks};
use crate::broker::Broker;
use crate::s3_server::{Gate, S3Server, Setup};
use crate::setup::{Fleet, server};

/// The code blocks of one language, in the order of the page.
fn of_the_page(language: &str) -> Vec<String> {
    let found = blocks()
        .into_iter()
        .filter(|block| block.place.starts_with("docs/security.md") && block.language == language);
    found.map(|block| block.text).collect()
}

/// The block that contains a text.
fn block(language: &str, contains: &str) -> String {
    let mut found = of_the_page(language).into_iter().filter(|block| block.contains(contains));
    let block = found.next().unwrap_or_else(|| panic!("no {language} block has {contains}"));
    assert_eq!(found.count(), 0, "more than one {language} block has {contains}");
    block
}

/// Whose key is whose, in the order of the page's policies.
const KEYS: [&str; 4] = ["COORDINATOR", "WORKER", "READER", "COLLECTOR"];

/// What may be done, on what.
#[derive(Debug)]
struct Statement {
    allow: bool,
    actions: Vec<String>,
    resources: Vec<String>,
}

impl Statement {
    fn all_of(policy: &str) -> Vec<Self> {
        let policy: Value = serde_json::from_str(policy).expect("JSON");
        let texts = |value: &Value| -> Vec<String> {
            match value.as_array() {
                Some(several) => {
                    several.iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
                }
                None => vec![value.as_str().expect("a text").to_owned()],
            }
        };
        let statements = policy["Statement"].as_array().expect("statements");
        let statements = statements.iter().map(|it| Self {
            allow: it["Effect"] == "Allow",
            actions: texts(&it["Action"]),
            resources: texts(&it["Resource"]),
        });
        statements.collect()
    }

    fn is_about(&self, action: &str, resource: &str) -> bool {
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => resource.starts_with(prefix),
            None => pattern == resource,
        };
        self.actions.iter().any(|it| it == action) && self.resources.iter().any(covers)
    }
}

/// Of every key: what it may do, what it did, and what it was refused.
#[derive(Default)]
struct Policies {
    of: BTreeMap<String, Vec<Statement>>,
    done: Mutex<BTreeSet<String>>,
    refused: Mutex<Vec<String>>,
}

impl Policies {
    /// The page's, for a fleet whose prefix in the bucket is `a/prefix`.
    fn of_the_page() -> Self {
        let policies =
            of_the_page("json").into_iter().filter(|block| block.contains("s3:ListBucket"));
        let policies = policies.map(|it| it.replace(":::archive/files/", ":::archive/a/prefix/"));
        let policies: Vec<_> = policies.map(|policy| Statement::all_of(&policy)).collect();
        assert_eq!(policies.len(), KEYS.len(), "the policies of the page");
        let of = KEYS.map(str::to_owned).into_iter().zip(policies).collect();
        Self { of, ..Self::default() }
    }

    /// What is allowed and nowhere denied.
    fn permit(&self, key: &str, action: &str, resource: &str) -> bool {
        let about = |it: &&Statement| it.is_about(action, resource);
        let about: Vec<_> = self.of.get(key).into_iter().flatten().filter(about).collect();
        !about.is_empty() && about.iter().all(|it| it.allow)
    }

    /// Every action that a policy allows was needed. Only uploads in parts that fail are given up.
    fn assert_nothing_is_unused(&self) {
        let done = self.done.lock().expect("alive");
        for (key, statements) in &self.of {
            let allowed = statements.iter().filter(|it| it.allow).flat_map(|it| &it.actions);
            for action in allowed.filter(|it| *it != "s3:AbortMultipartUpload") {
                assert!(done.contains(&format!("{key} {action}")), "{key} never needs {action}");
            }
        }
    }

    /// What decides about windows is written by coordinators, what is archived by workers.
    fn assert_the_rest_is_refused(&self) {
        let put = |key: &str, object: &str| {
            self.permit(key, "s3:PutObject", &format!("arn:aws:s3:::archive/a/prefix/{object}"))
        };
        let (shard, certificate) = (
            "20250101_7F_20250102T000000Z_r0000_0001-0123456789abcdef.des",
            "_des/certificates/20250101T000000Z-r0000-e0000000001.json",
        );
        assert!(put("WORKER", shard) && put("COORDINATOR", certificate), "they do their work");
        for (key, object) in [
            ("WORKER", certificate),
            ("WORKER", "_des/archive.json"),
            ("WORKER", "_des/manifests/20250101T000000Z-r0000/p000000-0123456789abcdef.rows"),
            ("COORDINATOR", shard),
            ("READER", shard),
            ("COLLECTOR", shard),
        ] {
            assert!(!put(key, object), "{key} may write {object}");
        }
        for key in ["COORDINATOR", "WORKER", "READER"] {
            let object = format!("arn:aws:s3:::archive/a/prefix/{shard}");
            assert!(!self.permit(key, "s3:DeleteObject", &object), "{key} may delete");
        }
    }

    fn permits(&self, request: &HttpRequest) -> bool {
        let head = request.headers().get("authorization").and_then(|it| it.to_str().ok());
        let key = head.and_then(|it| it.split_once("Credential=")?.1.split('/').next());
        let key = key.unwrap_or("nobody");
        let (action, resource) = meaning(request);
        let permitted = self.permit(key, action, &resource);
        if permitted {
            self.done.lock().expect("alive").insert(format!("{key} {action}"));
        } else {
            self.refused.lock().expect("alive").push(format!("{key}: {action} {resource}"));
        }
        permitted
    }
}

/// Action and resource of a request, as S3 names them.
fn meaning(request: &HttpRequest) -> (&'static str, String) {
    let path = request.uri().path().trim_start_matches('/').trim_end_matches('/');
    let query = request.uri().query().unwrap_or_default();
    let action = match request.method().as_str() {
        "GET" if !path.contains('/') => "s3:ListBucket",
        "GET" | "HEAD" => "s3:GetObject",
        "PUT" | "POST" => "s3:PutObject",
        "DELETE" if query.contains("uploadId=") => "s3:AbortMultipartUpload",
        "DELETE" => "s3:DeleteObject",
        other => panic!("{other} {}", request.uri()),
    };
    (action, format!("arn:aws:s3:::{path}"))
}

/// Refuses what the policies do not allow, as S3 does.
fn gate(policies: &Arc<Policies>) -> Gate {
    let policies = Arc::clone(policies);
    Arc::new(move |request, service| {
        if policies.permits(&request) {
            return async move { service.call(request).await }.boxed();
        }
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        let mut answer = s3s::HttpResponse::new(body.to_owned().into());
        *answer.status_mut() = hyper::StatusCode::FORBIDDEN;
        std::future::ready(Ok(answer)).boxed()
    })
}

/// Roles, users and schemas of the page, under names that no other test uses.
struct Names {
    prefix: String,
}

impl Names {
    fn of(&self, who: &str) -> String {
        format!("{}_{who}", self.prefix)
    }

    fn in_sql(&self, text: &str) -> String {
        ["reader", "ledger", "sync"]
            .iter()
            .fold(text.to_owned(), |text, who| {
                [" ", ";"].iter().fold(text, |text, end| {
                    text.replace(&format!(" des_{who}{end}"), &format!(" {}{end}", self.of(who)))
                })
            })
            .replace("archive.files", "archive.\"Files\"")
            .replace("created_at", "\"created at\"")
            .replace("file_location", "file_location, size_bytes")
    }

    fn url(&self, who: &str, fleet: &Fleet) -> String {
        let url = fleet.database_url();
        let (_user, place) = url.rsplit_once('@').expect("a user");
        format!("postgresql://{0}:{0}@{place}", self.of(who))
    }

    /// The page's two users of the broker, who may do no more than it says.
    fn make_users_of_the_broker(&self) {
        let rabbitmqctl = server("DES_TEST_RABBITMQCTL");
        for who in ["coordinator", "worker"] {
            let user = self.of(who);
            bash("\"$0\" add_user \"$1\" \"$1\"", &[&rabbitmqctl, &user]);
        }
        let block = block("sh", "des-coordinator");
        let block = block.replace("rabbitmqctl", "\"$0\"");
        let block = block.replace("^des", &format!("^{}", self.prefix));
        let block = ["coordinator", "worker"]
            .iter()
            .fold(block, |block, who| block.replace(&format!("des-{who}"), &self.of(who)));
        bash(&block, &[&rabbitmqctl]);
    }

    fn broker(&self, who: &str) -> String {
        let url = server("DES_TEST_AMQP_URL");
        let (_user, place) = url.rsplit_once('@').expect("a user");
        format!("amqp://{0}:{0}@{place}", self.of(who))
    }
}

fn bash(script: &str, arguments: &[&str]) -> String {
    let output = Command::new("bash").args(["-ec", script]).args(arguments).output();
    let output = output.expect("it runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

/// The tables, made by their owner with the page's commands.
fn make_tables(fleet: &Fleet) {
    fleet.execute("CREATE SCHEMA des");
    let commands = block("sh", "des init").replace("des init", "\"$1\" init");
    let commands = commands.replace("psql -v", "\"$2\" -v").replace("des.yaml", "coordinator.yaml");
    let (des, psql) = (env!("CARGO_BIN_EXE_des"), format!("{}/psql", server("DES_TEST_PG_BIN")));
    let script = format!("cd \"$0\"; OWNER_URL=\"$3\"\n{commands}");
    let directory = fleet.path("").display().to_string();
    bash(&script, &[&directory, des, &psql, &fleet.database_url()]);
}

#[test]
fn the_rights_of_the_page_are_enough_for_a_fleet_and_its_operators() {
    let policies = Arc::new(Policies::of_the_page());
    let setup = Setup {
        gate: Some(gate(&policies)),
        more_keys: KEYS.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let mut fleet = Fleet::over(S3Server::start(setup).expect("a server"), 600);
    let names = Names { prefix: fleet.broker().1 };
    make_tables(&fleet);
    for who in ["reader", "ledger"] {
        fleet.administer(&format!("CREATE ROLE {0} LOGIN PASSWORD '{0}'", names.of(who)));
    }
    fleet.execute("ALTER TABLE archive.\"Files\" ADD COLUMN archived boolean");
    for block in of_the_page("sql") {
        let sql = names.in_sql(&block).replace("'...'", &format!("'{}'", names.of("sync")));
        fleet.administer(&sql);
    }
    names.make_users_of_the_broker();

    fleet.configure("worker", "slots", json!(2));
    fleet.configure("broker", "url", json!(names.broker("worker")));
    let worker_config = fleet.path("worker.yaml");
    let of_worker = std::fs::read_to_string(&worker_config).expect("a configuration");
    fleet.configure("broker", "url", json!(names.broker("coordinator")));
    fleet.configure("watermark", "config_db_url", json!(names.url("ledger", &fleet)));
    fleet.configure("database", "url", json!(names.url("reader", &fleet)));
    fleet.configure("sync_archived", "url", json!(names.url("sync", &fleet)));
    fleet.configure("sync_archived", "column", json!("archived"));
    fleet.configure("sync_archived", "max_rows_per_second", json!(100_000));
    fleet.configure("throttle", "max_active_connections", json!(1_000));
    std::fs::write(&worker_config, of_worker).expect("written");

    fleet.use_key("COORDINATOR");
    fleet.des("coordinator --check --no-migrate").expect(0);
    let coordinator = fleet.start_with("coordinator", &["--no-migrate"]);
    fleet.use_key("WORKER");
    let workers = [fleet.start("worker"), fleet.start("worker")];
    fleet.use_key("READER");
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();

    // What operators do, each with the least key.
    for words in ["explain", "windows", "errors", "audit", "ls", "rebuild-ledger --dry-run"] {
        fleet.des(words).expect(0);
    }
    assert_eq!(fleet.json("sync-archived")["marked"], 580);
    fleet.des("pause --reason drill").expect(0);
    fleet.des("resume --reason drill").expect(0);
    fleet.des("throttle --max-files-per-second 100000 --reason drill").expect(0);
    fleet.use_key("COORDINATOR");
    fleet.des("plan").expect(0);
    fleet.des("reconcile --all").expect(0);
    assert_eq!(fleet.json("retry-failed --all")["still_failed"], 20);
    let shard = fleet.objects().into_keys().find(|key| key.ends_with(".des")).expect("a shard");
    fleet.damage(&[&shard]);
    let words = format!("replay --from {} --to {}", fleet.window_end(0), fleet.window_end(10));
    let replayed = fleet.json(&words);
    assert_eq!(replayed["found"]["objects_restored"], 1, "{replayed}");
    fleet.des("adjust --days-offset -1 --reason drill").expect(0);
    fleet.use_key("READER");
    fleet.wait_until_archived(LIMIT);
    fleet.use_key("COLLECTOR");
    let end = fleet.window_end(5).replace(['-', ':'], "");
    let hash = "0123456789abcdef";
    fleet.plant(&format!("_des/receipts/{end}-r0000/p000900-{hash}-{hash}.json"), 8);
    assert_eq!(fleet.json("gc --reason drill")["receipts"]["objects"], 1);
    fleet.use_key("READER");
    let verified = fleet.json("verify --deep");
    assert_eq!(
        (&verified["files"], &verified["damaged"], &verified["missing"]),
        (&580.into(), &0.into(), &0.into()),
        "{verified}"
    );
    for it in workers.into_iter().chain([coordinator]) {
        it.signal(Signal::TERM);
        it.end(LIMIT).expect(0);
    }

    assert_eq!(*policies.refused.lock().expect("alive"), [""; 0], "more than the page says");
    policies.assert_nothing_is_unused();
    policies.assert_the_rest_is_refused();
    assert_roles_may_do_no_more(&fleet, &names);
}

fn assert_roles_may_do_no_more(fleet: &Fleet, names: &Names) {
    for (who, statement) in [
        ("reader", "UPDATE archive.\"Files\" SET archived = true"),
        ("reader", "DELETE FROM archive.\"Files\""),
        ("reader", "SELECT * FROM des.des_windows"),
        ("ledger", "SELECT * FROM archive.\"Files\""),
        ("ledger", "UPDATE des_audit_log SET reason = ''"),
        ("ledger", "DELETE FROM des_audit_log"),
        ("ledger", "DELETE FROM des_archives"),
        ("ledger", "ALTER TABLE des_audit_log DISABLE TRIGGER ALL"),
        ("ledger", "CREATE TABLE des.more ()"),
        ("sync", "UPDATE archive.\"Files\" SET uid = ''"),
        ("sync", "DELETE FROM archive.\"Files\""),
        ("sync", "SELECT * FROM des.des_windows"),
    ] {
        let refusal = fleet.refusal(&names.url(who, fleet), statement);
        let told = ["permission denied", "must be owner"].iter().any(|it| refusal.contains(it));
        assert!(told, "{who}: {statement}: {refusal}");
    }
    let broker = Broker::of(fleet);
    for lane in ["outcomes", "dead", "tasks"] {
        let may = broker.may_be_read_by(&names.broker("worker"), lane);
        assert_eq!(may, lane == "tasks", "a worker's user, {lane}");
    }
}

/// The SQL of the other pages, on the tables that they speak of; nothing of it stays.
#[test]
fn the_sql_of_every_page_runs() {
    let fleet = Fleet::new(1);
    fleet.des("init").expect(0);
    fleet.execute(
        "CREATE TABLE files AS SELECT uid, \"created at\" AS created_at, file_location \
                   FROM archive.\"Files\"; CREATE TABLE archive.files AS TABLE files",
    );
    // The drill and the taking over are gone through by tests of their own, and the roles are tried above.
    let elsewhere = ["docs/restore-drill.md", "docs/takeover.md", "docs/security.md"];
    let is_tried = |block: &Block| {
        block.language == "sql" && !elsewhere.iter().any(|page| block.place.starts_with(page))
    };
    let mut count = 0;
    for block in blocks().into_iter().filter(is_tried) {
        let sql = block.text.replace(":origin", "'2024-12-01'");
        fleet.execute(&format!("BEGIN; {sql}; ROLLBACK"));
        count += 1;
    }
    assert!(count > 5, "the statements were not found: {count}");
}
