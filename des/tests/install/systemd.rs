//! The units, as systemd reads them.

use std::time::Duration;

use super::programs::{assert_known_to_des, files, path, program, succeeds, text, yaml};

const UNITS: &str = "compose/systemd";
/// Of 100: how exposed a unit may be, as systemd reckons.
const EXPOSURE: &str = "--threshold=15";

/// The units in a directory of their own, with the binary that was built.
fn installed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in [".service", ".timer"].iter().flat_map(|ends| files(UNITS, ends)) {
        let unit = text(&format!("{UNITS}/{name}"));
        let unit = unit.replace("/usr/local/bin/des", env!("CARGO_BIN_EXE_des"));
        std::fs::write(dir.path().join(name), unit).expect("written");
    }
    dir
}

/// The values of a key of a unit.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn systemd_accepts_every_unit_and_finds_it_confined() {
    let dir = installed();
    let Some(mut verify) = program("systemd-analyze") else { return };
    let units = files(UNITS, ".service").into_iter().chain(files(UNITS, ".timer"));
    let instances: Vec<_> = units.map(|name| dir.path().join(name.replace("@.", "@1."))).collect();
    // The directories of the machine come after ours.
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()));
    let said = succeeds(verify.args(["verify", "--man=no"]).args(&instances));
    assert!(!said.contains(&dir.path().display().to_string()), "{said}");
    for name in files(UNITS, ".service") {
        let mut security = program("systemd-analyze").expect("it was there");
        let unit = dir.path().join(name);
        succeeds(security.args(["security", "--offline=true", EXPOSURE]).arg(unit));
    }
    let lax = dir.path().join("des-migrate.service");
    let unit = std::fs::read_to_string(&lax).expect("a unit");
    std::fs::write(
        &lax,
        unit.replace("ProtectSystem=strict\n", "").replace("PrivateDevices=yes\n", ""),
    )
    .expect("written");
    let mut security = program("systemd-analyze").expect("it was there");
    super::programs::complains(security.args(["security", "--offline=true", EXPOSURE]).arg(lax));
}

#[test]
fn units_start_what_there_is_and_stop_it_with_time_to_drain() {
    for name in files(UNITS, ".service") {
        let unit = text(&format!("{UNITS}/{name}"));
        let start = values(&unit, "ExecStart").concat();
        let arguments: Vec<String> = start.split(' ').skip(1).map(str::to_owned).collect();
        assert_known_to_des(&arguments);
        let config = arguments.iter().find_map(|it| it.strip_prefix("/etc/des/")).expect("a file");
        let stop: u64 = values(&unit, "TimeoutStopSec").concat().parse().expect("seconds");
        if let Some(drain) = yaml(&format!("{UNITS}/{config}"))["worker"]["drain_timeout"].as_str()
        {
            let drain = humantime::parse_duration(drain).expect("a time");
            assert!(Duration::from_secs(stop) >= drain + Duration::from_secs(15), "{name}");
        }
        let environment = values(&unit, "EnvironmentFile").concat();
        let example = environment.strip_prefix("/etc/des/").expect("a file");
        assert!(path(&format!("{UNITS}/{example}.example")).exists(), "{name}: {environment}");
    }
    let worker = text(&format!("{UNITS}/worker.env.example"));
    assert!(!worker.contains("postgres"), "a worker has no business there");
}
