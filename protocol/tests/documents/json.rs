//! The JSON documents.

use protocol::message::{Outcome, Progress, RetryClass, Task, TaskResult};
use protocol::{ArchiveIdentity, Certificate, DocumentError, FailureReason, Receipt, Tally};
use serde_json::Value;

use crate::values::{
    archive, certificate, certificate_with_parts, done, outcome, progress, receipt,
    receipt_of_a_part, task, task_of_a_part,
};

/// What may be absent: fields that were added later, and values that may be null.
const OPTIONAL: [&str; 5] = ["replaces", "location", "range", "last_attempt", "avoid"];

/// Calls `visit` with every object of the document, by its JSON pointer.
fn objects(value: &Value, pointer: &str, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            visit(pointer);
            fields.iter().for_each(|(key, v)| objects(v, &format!("{pointer}/{key}"), visit));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, v)| objects(v, &format!("{pointer}/{n}"), visit));
        }
        _ => {}
    }
}

fn object_at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut serde_json::Map<String, Value> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object")
}

/// Everything that every kind of document promises.
fn check<T: PartialEq + std::fmt::Debug>(
    document: &T,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DocumentError>,
) {
    assert_eq!(decode(bytes).as_ref(), Ok(document), "it reads back");

    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    let json: Value = serde_json::from_slice(bytes).expect("it is JSON");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = json.clone();
        change(&mut changed);
        decode(&serde_json::to_vec(&changed).expect("it is JSON"))
    };

    let newer = with(&|json| json["version"] = 7.into()).expect_err("a newer version");
    assert!(matches!(newer, DocumentError::Newer { found: 7, known: 1, .. }));
    let text = newer.to_string();
    assert!(text.contains("version 7") && text.contains("version 1"), "{text}");
    // A newer one is refused by name even where it is of another shape.
    assert_eq!(decode(br#"{"version": 7}"#), Err(newer));
    let oldest = with(&|json| json["version"] = 0.into()).expect_err("no such version");
    assert!(oldest.to_string().contains("version 0"), "{oldest}");
    for odd in [Value::Null, "1".into(), (-1).into(), (1_u64 << 32).into(), 1.5.into()] {
        assert!(with(&|json| json["version"] = odd.clone()).is_err(), "version {odd}");
    }

    objects(&json, "", &mut |pointer| {
        let extended = with(&|json| {
            object_at(json, pointer).insert("of_the_future".to_owned(), serde_json::json!([{}]));
        });
        assert_eq!(extended.as_ref(), Ok(document), "an unknown field in {pointer:?}");
        let mut whole = json.clone();
        for key in object_at(&mut whole, pointer).keys() {
            let shortened = with(&|json| drop(object_at(json, pointer).remove(key)));
            let allowed = OPTIONAL.contains(&key.as_str());
            assert_eq!(shortened.is_ok(), allowed, "{pointer}/{key} is missing");
        }
    });
}

#[test]
fn every_document_reads_back_and_refuses_what_it_is_not() {
    check(&receipt(), &receipt().encode(), Receipt::decode);
    check(&certificate(), &certificate().encode(), Certificate::decode);
    check(&archive(), &archive().encode(), ArchiveIdentity::decode);
    check(&task(), &task().encode(), Task::decode);
    check(&task_of_a_part(), &task_of_a_part().encode(), Task::decode);
    check(&receipt_of_a_part(), &receipt_of_a_part().encode(), Receipt::decode);
    let with_parts = certificate_with_parts();
    check(&with_parts, &with_parts.encode(), Certificate::decode);
    check(&progress(), &progress().encode(), Progress::decode);
    let results = [
        done(),
        TaskResult::Retry { class: RetryClass::Store, detail: "503 \u{0}\n".to_owned() },
        TaskResult::Returned,
        TaskResult::Interrupted,
        TaskResult::Refused { detail: "another archive".to_owned() },
    ];
    for result in results {
        let outcome = outcome(result);
        check(&outcome, &outcome.encode(), Outcome::decode);
    }
}

#[test]
fn refusals_name_the_kind_of_document() {
    let newer = br#"{"version": 9}"#;
    let names = [
        (Receipt::decode(newer).map(drop), "receipt"),
        (Certificate::decode(newer).map(drop), "certificate"),
        (ArchiveIdentity::decode(newer).map(drop), "_des/archive.json"),
        (Task::decode(newer).map(drop), "task"),
        (Outcome::decode(newer).map(drop), "outcome"),
        (Progress::decode(newer).map(drop), "progress"),
    ];
    for (refused, name) in names {
        assert!(refused.expect_err("a newer version").to_string().contains(name), "{name}");
    }
}

#[test]
fn identifiers_inside_documents_are_checked() {
    for (from, to) in [
        ("scans_2024.a", "../scans"),
        ("0123456789abcdef", "0123456789ABCDEF"),
        ("host-7.slot_1", "host 7"),
        ("0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f", "0f"),
        ("2024-12-02T00:00:00Z", "2024-12-02T00:00:00.5Z"),
        ("no_location", "no_such_reason"),
    ] {
        let text = String::from_utf8(receipt().encode()).expect("UTF-8");
        assert!(text.contains(from), "{from}");
        assert!(Receipt::decode(text.replace(from, to).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn the_stored_texts_of_classes_are_those_of_json() {
    // Written out, since databases and certificates hold them for ever.
    let reasons = [
        (FailureReason::Missing, "missing"),
        (FailureReason::NoPermission, "no_permission"),
        (FailureReason::IsDirectory, "is_directory"),
        (FailureReason::NotRegular, "not_regular"),
        (FailureReason::OutsideRoots, "outside_roots"),
        (FailureReason::InvalidLocation, "invalid_location"),
        (FailureReason::SizeMismatch, "size_mismatch"),
        (FailureReason::Changed, "changed"),
        (FailureReason::NoLocation, "no_location"),
        (FailureReason::LocationTooLong, "location_too_long"),
        (FailureReason::UidTooLong, "uid_too_long"),
        (FailureReason::TooManyParts, "too_many_parts"),
        (FailureReason::Unreadable, "unreadable"),
        (FailureReason::GaveUp, "gave_up"),
    ];
    for (reason, text) in reasons {
        assert_eq!(reason.as_str(), text);
        assert_eq!(serde_json::to_value(reason).expect("it serialises"), text);
    }
    let classes = [
        (RetryClass::Store, "store"),
        (RetryClass::Source, "source"),
        (RetryClass::Mount, "mount"),
        (RetryClass::Local, "local"),
        (RetryClass::Panic, "panic"),
    ];
    for (class, text) in classes {
        assert_eq!(class.as_str(), text);
        assert_eq!(serde_json::to_value(class).expect("it serialises"), text);
    }
}

#[test]
fn a_certificate_adds_up_its_receipts() {
    let mut certificate = Certificate {
        packed: Tally::default(),
        failed: Tally::default(),
        bytes_raw: 0,
        bytes_stored: 0,
        shards: Vec::new(),
        big_files: Vec::new(),
        failures: Vec::new(),
        ..certificate()
    };
    certificate.absorb(receipt());
    certificate.absorb(receipt());
    let one = receipt();
    assert_eq!(certificate.packed, one.packed + one.packed);
    assert_eq!(certificate.failed.rows, 2);
    assert_eq!(certificate.bytes_raw, 2 * one.bytes_raw);
    assert_eq!(certificate.shards.len(), 2);
    assert_eq!(certificate.big_files, one.big_files, "a big file of two partitions stands once");
    let stored = 2 * one.shards[0].size + one.big_files[0].size;
    assert_eq!(certificate.bytes_stored, stored);
    assert_eq!(certificate.tally_of_failures(), one.tally_of_failures() + one.tally_of_failures());
    assert!(!one.deserves_second_attempt());
}

#[test]
fn a_manifest_that_partitions_share_stands_once_and_in_row_order() {
    let certificate = certificate_with_parts();
    let manifests = certificate.manifests();
    let names: Vec<_> = manifests.iter().map(|manifest| &manifest.key[38..45]).collect();
    assert_eq!(names, ["p000004", "p000017"]);
    assert_eq!((manifests[0].size, manifests[0].rows.rows), (400, 3));
    assert_eq!((manifests[1].size, manifests[1].rows.rows), (500, 6));
    assert_eq!(manifests.iter().map(|it| it.rows).sum::<Tally>(), certificate.rows());
}

#[test]
fn numbers_that_somebody_made_up_do_not_overflow() {
    let mut receipt = receipt();
    receipt.packed.rows = u64::MAX;
    receipt.bytes_raw = u64::MAX;
    receipt.shards[0].size = u64::MAX;
    let mut certificate = certificate();
    certificate.absorb(receipt);
    assert_eq!(certificate.packed.rows, u64::MAX);
    assert_eq!(certificate.bytes_stored, u64::MAX);
}
