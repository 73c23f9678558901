//! Moving the watermark: back, forward, and by hand.

use serde_json::json;

use crate::support::Place;

fn archived(days: std::ops::Range<u64>) -> Place {
    let mut place = Place::new();
    place.fill(days, 3);
    place.load();
    place.migrate();
    place
}

fn audit(place: &Place) -> Vec<Vec<String>> {
    place.sql().query(
        "SELECT action, coalesce(from_value, ''), to_value, coalesce(reason, ''), actor <> '' \
         FROM des_audit_log WHERE action <> 'init' ORDER BY id",
    )
}

#[test]
fn back_and_forth_packs_nothing_twice() {
    let place = archived(5..10);
    let before = place.objects();
    let planned = place.json("adjust --days-offset -3 --dry-run");
    assert_eq!((&planned["changed"], &planned["certified_windows"]), (&json!(false), &json!(3)));
    assert_eq!(place.watermark(), place.cutoff());

    let moved = place.json("adjust --days-offset -3 --reason because");
    assert_eq!(moved["changed"], true, "{moved}");
    assert_eq!(moved["to"], place.midnight(7).as_str(), "{moved}");
    assert_eq!(place.watermark(), place.midnight(7));
    let row = ["adjust", &place.cutoff(), &place.midnight(7), "because", "1"].map(str::to_owned);
    assert_eq!(audit(&place), [row]);

    let done = place.migrate();
    assert_eq!((&done["windows"], &done["files_archived"]), (&json!(0), &json!(0)), "{done}");
    assert_eq!(place.watermark(), place.cutoff());
    assert_eq!(place.objects(), before, "not one object more");
    // Inside a certified window means its start.
    let inside = format!("adjust --set-date {}", place.midnight(8).replace("T00", "T13"));
    assert_eq!(place.json(&inside)["to"], place.midnight(8).as_str());
    // Over what is certified it may go forward, too.
    let forward = place.json(&format!("adjust --set-date {}", place.cutoff()));
    assert_eq!((&forward["skipped_files"], &forward["changed"]), (&json!(0), &json!(true)));
    assert_eq!(place.objects(), before);
    assert_eq!(place.verify_deep()["files"], 15);
}

#[test]
fn past_the_lag_needs_allow_skip_and_says_how_many_files() {
    let mut place = archived(8..10);
    place.fill(12..13, 4);
    place.load();
    let (to, now) = (place.midnight(13), place.watermark());
    let before = place.everything();
    let words = format!("adjust --set-date {to}");
    let told = ["past now - lag_days", "4 files would be skipped", "--allow-skip"];
    place.des(&words).expect(2).says(told);
    // The future is out of reach, whatever is allowed.
    place.des("adjust --set-date 2999-01-01 --allow-skip").expect(2).says(["in the future"]);
    place.des("adjust --set-date 2999-01-01").expect(2).says(["in the future"]);
    assert_eq!(place.everything(), before, "a refusal changes nothing");
    let planned = place.json(&format!("{words} --allow-skip --dry-run"));
    assert_eq!((&planned["changed"], &planned["skipped_files"]), (&json!(false), &json!(4)));
    assert_eq!(place.everything(), before, "a dry run changes nothing");

    let moved = place.json(&format!("{words} --allow-skip --reason unwanted"));
    assert_eq!((&moved["changed"], &moved["skipped_files"]), (&json!(true), &json!(4)), "{moved}");
    assert_eq!(place.watermark(), to);
    let row = ["adjust", &now, &to, "unwanted", "1"].map(str::to_owned);
    assert_eq!(audit(&place), [row]);
    let windows = place.json("ls")["windows"].clone();
    let last = windows.as_array().and_then(|it| it.last()).expect("a window");
    assert_eq!((&last["kind"], &last["start"]), (&json!("skipped"), &json!(now)), "{last}");
    assert_eq!(last["end"], to.as_str(), "{last}");
    let key = last["certificate"].as_str().expect("its name");
    assert!(place.archive().join(key).is_file(), "{key}");
    place.get("day12-0", &place.midnight(12)[..10]).expect(4);
    assert_eq!(place.verify_deep()["files"], 6);
    assert_eq!(place.migrate()["windows"], 0, "the watermark is ahead of the cutoff");
}

#[test]
fn what_was_skipped_is_archived_after_going_back() {
    let mut place = Place::new();
    let made = place.fill(5..9, 3);
    place.load();
    place.json("init");
    let to = place.midnight(7);
    let words = format!("adjust --set-date {to}");
    place.des(&words).expect(2).says(["6 files", "would be skipped", "--allow-skip"]);
    assert_eq!(place.json(&format!("{words} --allow-skip"))["skipped_files"], 6);
    let done = place.migrate();
    assert_eq!(done["files_archived"], 6, "{done}");
    place.get(&made[0].uid, &made[0].created_at).expect(4);

    place.json("adjust --days-offset -5");
    let done = place.migrate();
    assert_eq!((&done["files_archived"], place.watermark()), (&json!(6), place.cutoff()), "{done}");
    for file in &made {
        place.assert_archived(file);
    }
    assert_eq!(place.listed().len(), made.len(), "every file once");
    place.verify_deep();
}

#[test]
fn skipping_after_going_back_covers_only_what_is_not_archived() {
    let mut place = archived(5..8);
    let later = place.fill(8..10, 2);
    place.load();
    // The empty rest up to the cutoff is certified already: only a replay would find the late rows.
    let made_before = place.objects();
    place.json("adjust --days-offset -4");
    let to = place.midnight(12);
    let moved = place.json(&format!("adjust --set-date {to} --allow-skip"));
    assert_eq!(moved["skipped_files"], 0, "{moved}");
    let skipped = place.json("ls")["windows"].as_array().expect("windows").last().cloned();
    assert_eq!(
        skipped.expect("one")["start"],
        place.cutoff().as_str(),
        "no archived file is in it"
    );
    assert_eq!(place.objects().len(), made_before.len() + 1, "the certificate of skipping");

    place.json("adjust --days-offset -7");
    let done = place.migrate();
    assert_eq!(done["files_archived"], later.len(), "the late rows, and nothing twice: {done}");
    assert_eq!(place.listed().len(), 9 + later.len());
    place.verify_deep();
}

#[test]
fn below_the_origin_means_that_more_is_covered() {
    let mut place = Place::new();
    let old = place.fill(2..4, 3);
    let new = place.fill(6..8, 3);
    place.load();
    place.set("watermark", json!({ "default_archived_until": place.midnight(5) }));
    assert_eq!(place.migrate()["files_archived"], new.len());
    assert_eq!(place.json("stats")["uncovered_files"], old.len());

    place.json(&format!("adjust --set-date {}", place.midnight(2)));
    let stats = place.json("stats");
    assert_eq!(
        (&stats["uncovered_files"], &stats["origin"]),
        (&json!(0), &json!(place.midnight(2)))
    );
    let done = place.migrate();
    assert_eq!(done["files_archived"], old.len(), "{done}");
    for file in old.iter().chain(&new) {
        place.assert_archived(file);
    }
    assert_eq!(place.listed().len(), old.len() + new.len());
    place.verify_deep();
}

#[test]
fn a_watermark_that_was_moved_by_hand_stops_everything() {
    for day in [7, 11] {
        let mut place = archived(6..9);
        place.fill(9..10, 2);
        place.load();
        let (left, moved) = (place.cutoff(), place.midnight(day));
        place.sql().execute(&format!("UPDATE des_archive_config SET archived_until = '{moved}'"));
        let before = place.objects();
        let told = [moved.as_str(), left.as_str(), "moved it by hand", "des adjust"];
        place.des("migrate --mode single").expect(1).says(told);
        place.des("migrate --mode single").expect(1).says(told);
        let run = place.des(&format!("replay --window {}", place.midnight(7))).expect(1);
        run.says(told);
        assert_eq!((place.objects(), place.watermark()), (before, moved.clone()));
        let stats = place.json("stats");
        assert_eq!(stats["moved_by_hand_from"], left.as_str(), "{stats}");
        let human = place.des("stats").expect(0).text();
        assert!(human.contains("moved the watermark by hand"), "{human}");

        let checked = place.des("migrate --check").expect(1).text();
        let error = format!("moved archived_until to {moved}, and des left it at {left}");
        assert!(checked.contains(&error), "{checked}");
        // Days count from where des left it.
        let planned = place.json("adjust --days-offset -1 --dry-run");
        assert_eq!(planned["to"], place.midnight(9).as_str(), "{planned}");

        // `adjust` takes responsibility for where it stands, or moves it.
        let explained = place.json(&format!("adjust --set-date {}", place.midnight(6)));
        assert_eq!(explained["changed"], true, "{explained}");
        assert!(place.json("stats")["moved_by_hand_from"].is_null());
        let done = place.migrate();
        assert_eq!(done["files_archived"], 2, "{done}");
        assert_eq!(place.listed().len(), 11);
        place.verify_deep();
    }
}

#[test]
fn a_watermark_that_was_moved_back_by_hand_may_be_put_back() {
    let place = archived(6..9);
    let left = place.cutoff();
    place.sql().execute("UPDATE des_archive_config SET archived_until = '2024-01-01'");
    place.des("migrate").expect(1);
    place.sql().execute(&format!("UPDATE des_archive_config SET archived_until = '{left}'"));
    assert_eq!(place.migrate()["windows"], 0);
    place.sql().execute("DELETE FROM des_archive_config");
    place.des("migrate").expect(2).says(["des_archive_config holds no row", &left]);
}

#[test]
fn a_skip_ends_where_archived_windows_begin() {
    let mut place = Place::new();
    let old = place.fill(2..4, 3);
    let new = place.fill(6..9, 3);
    place.load();
    place.set("watermark", json!({ "default_archived_until": place.midnight(6) }));
    place.json(&format!("init --accept-below {}", old.len()));
    assert_eq!(place.migrate()["files_archived"], new.len());
    place.json(&format!("adjust --set-date {}", place.midnight(2)));

    // Between lies what is archived: a skip over it would outrank its certificates.
    let before = (place.objects(), place.watermark());
    let words = format!("adjust --set-date {} --allow-skip", place.midnight(9));
    place.des(&words).expect(2).says(["archived already", &place.midnight(6), "--allow-skip"]);
    assert_eq!((place.objects(), place.watermark()), before);
    let words = format!("adjust --set-date {} --allow-skip", place.midnight(6));
    assert_eq!(place.json(&words)["skipped_files"], old.len());
    assert_eq!(place.migrate()["files_archived"], 0);
    for file in &new {
        place.assert_archived(file);
    }
}

#[test]
fn what_lies_above_a_watermark_that_was_moved_back_waits_for_its_turn() {
    let place = archived(5..9);
    place.json(&format!("adjust --set-date {}", place.midnight(6)));
    let words = format!("replay --window {}", place.midnight(8));
    place.des(&words).expect(2).says(["was moved back to", "des migrate"]);
    // Also one that was recorded before it was moved back stands in nobody's way.
    place.sql().execute(&format!(
        "INSERT INTO des_windows (job, window_end, revision, window_start, state, row_count, \
         digest, replaces) SELECT job, window_end, 1, window_start, 'requested', 0, digest, '[]' \
         FROM des_windows WHERE window_end = (SELECT max(window_end) FROM des_windows \
         WHERE window_end < {}000000)",
        chrono::DateTime::parse_from_rfc3339(&place.midnight(9)).expect("a date").timestamp()
    ));
    let before = place.listed();
    let done = place.migrate();
    assert_eq!((&done["files_archived"], place.watermark()), (&json!(0), place.cutoff()));
    assert_eq!(place.listed(), before);
    assert_eq!(place.json("stats")["open_windows"], 0);
}
