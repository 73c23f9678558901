//! `des audit export`: every row of the catalog, and what became of it, from the store alone.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::json;

use crate::support::{Made, Place, incompressible, text};

const HEADER: &str = "uid,created_at,archived_at,shard,offset,size,crc32c,status";

/// uid to the other fields.
fn rows(csv: &str) -> BTreeMap<String, Vec<String>> {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some(HEADER));
    let rows = lines.map(|line| {
        let mut fields = line.split(',').map(str::to_owned);
        (fields.next().expect("a uid"), fields.collect::<Vec<_>>())
    });
    let rows: Vec<_> = rows.collect();
    let count = rows.len();
    let by_uid: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(by_uid.len(), count, "a row is listed twice");
    by_uid
}

#[track_caller]
fn assert_where_it_says(place: &Place, made: &Made, fields: &[String]) {
    let [created_at, archived_at, shard, offset, size, crc32c, status] = fields else {
        panic!("{fields:?}")
    };
    assert_eq!((created_at.as_str(), status.as_str()), (made.created_at.as_str(), "archived"));
    assert!(archived_at.ends_with('Z'), "{fields:?}");
    assert_eq!(*size, made.bytes.len().to_string(), "{}", made.uid);
    let object = std::fs::read(place.archive().join(shard)).expect(shard);
    let offset: usize = offset.parse().expect("an offset");
    if shard.starts_with("_bigFiles/") {
        assert!(crc32c.is_empty() && offset == 0 && object == made.bytes, "{}", made.uid);
        return;
    }
    assert_eq!(*crc32c, format!("{:08x}", checksum(&made.bytes)), "{}", made.uid);
    // What cannot be made smaller is stored as it is: there its bytes are, at its offset.
    if made.uid.starts_with("noise") {
        assert!(object[offset..].starts_with(&made.bytes), "{}", made.uid);
    }
}

/// CRC-32C (Castagnoli), bit by bit: not by the code that wrote it.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Three days of files of every kind, and three that are gone.
fn place() -> (Place, Vec<Made>, Vec<Made>) {
    let mut place = Place::new();
    place.set("packer.big_file_threshold", 20_000).set("coordinator.max_attempts", 1);
    place.set("coordinator.max_failed_ratio", 0.5);
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for day in 7..10 {
        for number in 0..9 {
            let at = place.time(day, chrono::TimeDelta::microseconds(1_000_001 + number));
            let (uid, bytes) = match number {
                0 => (format!("big-{day}"), incompressible(&format!("{day}"), 30_000)),
                1..4 => (
                    format!("noise-{day}-{number}"),
                    incompressible(&format!("{day}{number}"), 900),
                ),
                _ => (format!("text-{day}-{number}"), text(&format!("{day}{number}"), 700)),
            };
            let made = place.file_at(&uid, &at, bytes);
            if number == 8 { gone.push(made) } else { there.push(made) }
        }
    }
    for file in &gone {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.load();
    (place, there, gone)
}

#[test]
fn every_row_is_listed_once_with_where_it_is() {
    let (place, there, gone) = place();
    place.migrate();
    // The store is all it takes.
    std::fs::remove_file(place.catalog()).expect("removed");
    let listed = rows(&place.des("audit export").expect(0).text());
    assert_eq!(listed.len(), there.len() + gone.len());
    for made in &there {
        assert_where_it_says(&place, made, &listed[&made.uid]);
    }
    for made in &gone {
        let none = ["", "", "", "", ""].map(str::to_owned);
        let fields = &listed[&made.uid];
        assert_eq!(
            (&fields[0], &fields[1..6], fields[6].as_str()),
            (&made.created_at, &none[..], "missing")
        );
    }

    // A part of it, into a file.
    let to = place.path("part.csv");
    let words = format!(
        "audit export --from {} --to {} --to-file {}",
        place.midnight(8),
        place.midnight(9),
        to.display()
    );
    let told = place.json(&words);
    // The umask is that of whoever runs the tests.
    let mode = |path| std::fs::metadata(path).expect("it is there").permissions().mode();
    let beside = place.path("beside");
    std::fs::write(&beside, "").expect("written");
    assert_eq!(mode(&to), mode(&beside));
    let size = std::fs::metadata(&to).expect("it is there").len();
    let shards = told["shards"].as_u64().expect("shards");
    let expected = json!({
        "to": to, "format": "csv", "windows": 2, "skipped_windows": 0, "shards": shards,
        "archived": 8, "failed": 1, "bytes": size,
    });
    assert_eq!(told, expected);
    let part = rows(&std::fs::read_to_string(&to).expect("it is text"));
    assert!(part.keys().all(|uid| uid.contains("-8")), "{:?}", part.keys());
    for (uid, fields) in &part {
        assert_eq!(fields, &listed[uid], "{uid}");
    }
    place.des("audit export --format table").expect(2);
    // What is there is replaced only where that is said.
    std::fs::write(&to, "mine").expect("written");
    place.des(&words).expect(2).says([to.display().to_string().as_str(), "--force"]);
    assert_eq!(std::fs::read_to_string(&to).expect("it is text"), "mine");
    assert_eq!(place.json(&format!("{words} --force")), expected);
    assert_eq!(rows(&std::fs::read_to_string(&to).expect("it is text")), part);
    place.des("audit export --force").expect(2).says(["--to-file"]);

    // The same as Parquet, row by row.
    let to = place.path("all.parquet");
    let told = place.json(&format!("audit export --format parquet --to-file {}", to.display()));
    assert_eq!((&told["format"], &told["archived"]), (&json!("parquet"), &json!(there.len())));
    assert_eq!(parquet_rows(&to), listed);
    let left: Vec<_> =
        std::fs::read_dir(to.parent().expect("a directory")).expect("listed").collect();
    let names = left.iter().map(|it| it.as_ref().expect("an entry").file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tmp")));
}

/// As [`rows`], of a Parquet file.
fn parquet_rows(path: &std::path::Path) -> BTreeMap<String, Vec<String>> {
    let file = std::fs::File::open(path).expect("it is there");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let time = |micros| protocol::Timestamp::from_micros(micros).expect("a time").to_string();
    let mut rows = BTreeMap::new();
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let text = |value: Option<String>| value.unwrap_or_default();
        let fields = vec![
            time(row.get_timestamp_micros(1).expect("created_at")),
            text(row.get_timestamp_micros(2).ok().map(time)),
            text(row.get_string(3).ok().cloned()),
            text(row.get_ulong(4).ok().map(|it| it.to_string())),
            text(row.get_ulong(5).ok().map(|it| it.to_string())),
            text(row.get_uint(6).ok().map(|it| format!("{it:08x}"))),
            row.get_string(7).expect("status").clone(),
        ];
        let uid = row.get_string(0).expect("uid").clone();
        assert!(rows.insert(uid, fields).is_none(), "a row is listed twice");
    }
    rows
}

#[test]
fn what_was_replayed_is_listed_once_and_damage_leaves_no_list() {
    let (place, there, gone) = place();
    place.migrate();
    // Archived after all, by a later pass.
    std::fs::write(&gone[0].path, &gone[0].bytes).expect("it is back");
    let end = place.midnight(8);
    place.json(&format!("retry-failed --window {end}"));
    let listed = rows(&place.des("audit export").expect(0).text());
    assert_eq!(listed.len(), there.len() + gone.len());
    assert_where_it_says(&place, &gone[0], &listed[&gone[0].uid]);
    assert_eq!(listed[&gone[1].uid][6], "missing");

    let shard = place.archive().join(&listed[&there[1].uid][2]);
    let mut bytes = std::fs::read(&shard).expect("a shard");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, &bytes).expect("written");
    let to = place.path("all.csv");
    let name = shard.file_name().expect("a name").to_string_lossy().into_owned();
    place.des(&format!("audit export --to-file {}", to.display())).expect(1).says([&name]);
    assert!(!to.exists(), "a list that is not complete gets no name");
    assert_eq!(place.json("audit --limit 1")["entries"].as_array().map(Vec::len), Some(1));
}
