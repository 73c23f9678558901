//! A headless Chromium, driven over chromedriver's WebDriver protocol, which is JSON over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No command of the browser takes longer, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// A key of the WebDriver protocol, which has no shorter name for it.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Nothing that a browser does by itself.
const ARGUMENTS: [&str; 13] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--lang=en",
];

/// What `./test` found.
fn program(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"))
}

pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    /// Gone with the browser.
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("des-page-").tempdir().expect("a directory");
        let mut driver = Command::new(program("DES_TEST_CHROMEDRIVER"))
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut said = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        std::thread::spawn(move || said.for_each(drop));
        let address = format!("127.0.0.1:{port}");
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        browser.begin();
        browser
    }

    fn begin(&mut self) {
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", self._profile.path().join("data").display()));
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": program("DES_TEST_CHROMIUM"), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let asked = json!({"capabilities": {"alwaysMatch": wanted}});
        let session = self.call("POST", "/session", &asked);
        let session = session["sessionId"].as_str().expect("a session");
        self.session = format!("/session/{session}");
    }

    /// A command; what it answers.
    #[track_caller]
    fn command(&self, path: &str, body: Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), &body)
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).expect("chromedriver listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.write_all(request.as_bytes()).expect("a request");
        // chromedriver keeps the connection open, whatever it is asked.
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            assert!(reader.read_line(&mut head).expect("a head") > 0, "{path}: {head}");
            let line = head[from..].to_ascii_lowercase();
            if let Some(given) = line.strip_prefix("content-length:") {
                length = given.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let body = String::from_utf8(body).expect("text");
        let value: Value =
            serde_json::from_str(&body).unwrap_or_else(|why| panic!("{why}: {body}"));
        assert!(head.contains(" 200 "), "{path} {body:.600}");
        value["value"].clone()
    }

    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.command("/url", json!({ "url": url }));
    }

    /// What a script returns.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", json!({"script": script, "args": []}))
    }

    /// What a person can read of the first element that `selector` finds.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({selector:?})?.innerText"));
        text.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
    }

    /// Waits until a script returns true; tells what the page shows when it never does.
    #[track_caller]
    pub(crate) fn wait_for(&self, script: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.run(script) != true {
            let shown = || self.text("body");
            assert!(Instant::now() < deadline, "never: {script}\nThe page:\n{}", shown());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let asked = json!({"using": "css selector", "value": selector});
        let found = self.command("/element", asked);
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        self.command(&format!("/element/{}/click", self.element(selector)), json!({}));
    }

    #[track_caller]
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command(&format!("/element/{element}/clear"), json!({}));
        self.command(&format!("/element/{element}/value"), json!({ "text": text }));
    }

    /// Presses keys, one after the other.
    #[track_caller]
    pub(crate) fn press(&self, keys: &[char]) {
        let strokes = keys.iter().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))
        });
        let strokes: Vec<_> = strokes.collect();
        let actions = json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]});
        self.command("/actions", actions);
    }

    #[track_caller]
    pub(crate) fn devtools(&self, command: &str, parameters: Value) -> Value {
        let asked = json!({"cmd": command, "params": parameters});
        self.command("/goog/cdp/execute", asked)
    }

    /// A screen of this size in pixels, `phone` with touch.
    #[track_caller]
    pub(crate) fn screen(&self, width: u32, height: u32, phone: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `light` or `dark`, as the visitor's system says.
    #[track_caller]
    pub(crate) fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What was written to the console since the last time, violations of the policy among it.
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("/se/log", json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().expect("a message").to_owned()).collect()
    }

    /// A picture of the whole page, base64 of a PNG, no higher than `most`.
    #[track_caller]
    pub(crate) fn picture(&self, most: u64) -> String {
        let height = self.run("return document.documentElement.scrollHeight");
        let width = self.run("return window.innerWidth");
        let height = height.as_u64().expect("a height").min(most);
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let asked = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.devtools("Page.captureScreenshot", asked);
        picture["data"].as_str().expect("a picture").to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session; a driver that is killed would leave it behind.
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let end = format!(
                "DELETE {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.address
            );
            let _ended_already = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let _ended_already = stream.write_all(end.as_bytes());
            let _ended_already = stream.read(&mut [0; 512]);
        }
        let _ended_already = self.driver.kill();
        let _reaped_already = self.driver.wait();
    }
}
