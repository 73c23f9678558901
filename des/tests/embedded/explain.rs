//! `explain` says in its first sentence what is in the way.

use serde_json::{Value, json};

use crate::support::Place;

/// What it says, as JSON; the human form begins with the same sentence. Always exit code 0.
#[track_caller]
fn explained(place: &Place, texts: &[&str]) -> Value {
    let facts = place.json("explain");
    let sentence = facts["explanation"].as_str().expect("a sentence").to_owned();
    for text in texts {
        assert!(sentence.contains(text), "`{text}` is not said: {sentence}\n{facts:#}");
    }
    let human = place.des("explain").expect(0).text();
    // Times of a lease may differ between the two; its sentence says none while nobody leads.
    assert!(human.starts_with(&sentence), "{human}");
    facts
}

#[test]
fn what_is_in_the_way_is_said_first() {
    let mut place = Place::new();
    for file in place.fill(8..9, 30).iter().take(11) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    place.load();
    std::fs::create_dir(place.archive()).expect("made");
    let before = place.everything();
    explained(&place, &["There is no archive yet", "des migrate"]);
    assert_eq!(place.everything(), before, "nothing is changed");

    place.json("init");
    let facts = explained(&place, &["nobody leads", "33 files are due", "des migrate"]);
    assert_eq!((&facts["watermark"]["pending_files"], &facts["lease"]), (&json!(33), &json!(null)));
    assert_eq!((&facts["broker"], &facts["troubles"]), (&json!(null), &json!([])));

    place.des("migrate").expect(1);
    let told = format!("the window that ends at {} is held: 11 of its 30 files", place.midnight(9));
    let facts = explained(&place, &[&place.midnight(8), &told, "des release --window"]);
    assert_eq!(facts["windows"][0]["held"], true, "{facts:#}");
    assert_eq!(facts["windows"][0]["partitions"]["accepted"], 1, "{facts:#}");

    place.set("coordinator.max_failed_ratio", 0.5);
    place.migrate();
    let facts = explained(&place, &["Nothing is due", &place.cutoff()]);
    assert_eq!(facts["errors"], json!([{ "reason": "missing", "files": 11 }]));

    let moved = place.midnight(5);
    place.sql().execute(&format!("UPDATE des_archive_config SET archived_until = '{moved}'"));
    explained(&place, &["somebody moved it by hand", &moved, &place.cutoff(), "des adjust"]);
    place
        .sql()
        .execute(&format!("UPDATE des_archive_config SET archived_until = '{}'", place.cutoff()));

    let archive = place.archive();
    std::fs::rename(&archive, place.path("elsewhere")).expect("moved");
    let facts = explained(&place, &["while the store does not answer", "does not exist"]);
    assert_eq!(facts["troubles"][0]["what"], "store", "{facts:#}");
    std::fs::rename(place.path("elsewhere"), &archive).expect("moved back");

    place.sql().execute("DELETE FROM des_archives; UPDATE des_lease SET epoch = 0");
    explained(&place, &["Nothing can move", "knows nothing of it", "des rebuild-ledger"]);
}

#[test]
fn what_operators_did_can_be_read() {
    let mut place = Place::new();
    place.fill(7..10, 3);
    place.load();
    let human = |place: &Place, words: &str| place.des(words).expect(0).text();
    place.json("init --reason first");
    place.migrate();
    place.json("adjust --days-offset -1 --reason again");
    place.migrate();
    place.json(&format!("replay --window {} --reason look", place.cutoff()));
    place.json("gc --reason tidy");
    let log = place.json("audit");
    let entries = log["entries"].as_array().expect("entries");
    let told: Vec<_> = entries
        .iter()
        .map(|it| (it["action"].as_str().expect("what"), it["reason"].as_str().expect("why")))
        .collect();
    let earlier = [("replay", "look"), ("adjust", "again"), ("init", "first")];
    assert_eq!(told[..2], [("gc", "tidy"), ("gc", "tidy")], "done, and begun");
    assert_eq!(told[2..], earlier);
    for entry in entries {
        assert!(entry["actor"].as_str().is_some_and(|actor| actor.contains('@')), "{entry}");
        assert!(entry["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{entry}");
    }
    assert_eq!(entries[2]["from"], place.cutoff().as_str(), "{log}");
    assert_eq!(entries[2]["to"], place.midnight(9).as_str(), "{log}");
    assert_eq!(place.json("audit --limit 2")["entries"].as_array().map(Vec::len), Some(2));
    assert!(human(&place, "audit --limit 1").contains(" gc to 0 objects removed, 0 bytes: tidy\n"));
}
