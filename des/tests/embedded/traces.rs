//! In one process a window is the same trace: the in-process queue carries headers, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::otlp::Receiver;
use crate::support::Place;

#[test]
fn embedded_windows_and_replays_are_traces_and_no_file_is_in_them() {
    let receiver = Receiver::start();
    let mut place = Place::new();
    place.fill(7..10, 4);
    place.load().set("tracing.otlp_endpoint", receiver.endpoint.clone());
    let migrated = place.migrate();
    let late = place.file("late-and-secret", 8);
    place.load();
    place.json(&format!("replay --window {}", place.midnight(9)));
    place.assert_archived(&late);

    let spans = receiver.spans();
    let ids: BTreeMap<_, _> = spans.iter().map(|span| (&span.id, span)).collect();
    let mut traces: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for span in &spans {
        assert!(span.began <= span.ended && span.service == "des-migrate", "{span:?}");
        assert!(span.name == "window" || ids[&span.parent].trace == span.trace, "{span:?}");
        traces.entry(&span.trace).or_default().insert(&span.name);
    }
    let instances: BTreeSet<_> = spans.iter().map(|span| &span.instance).collect();
    assert_eq!(instances.len(), 2, "two commands: {instances:?}");
    let roots: Vec<_> = spans.iter().filter(|span| span.name == "window").collect();
    assert_eq!(roots.len(), traces.len());
    let first = roots.iter().filter(|root| root.get("revision") == "0").count();
    assert_eq!(migrated["windows"], first, "{roots:#?}");
    let again: Vec<_> = roots.iter().filter(|root| root.get("revision") != "0").collect();
    assert_eq!(again.len(), 1, "{again:#?}");
    assert_eq!((again[0].get("rows"), again[0].get("window")), ("1", &*place.midnight(9)));
    let packed = traces.values().filter(|names| names.contains("upload")).count();
    assert_eq!(packed, 3 + 1, "{traces:#?}");
    for secret in [place.path("files").display().to_string(), late.uid.clone()] {
        assert!(!receiver.was_told(&secret), "{secret} is in a span");
    }
}
