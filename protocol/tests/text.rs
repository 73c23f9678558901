//! Times and names: what is printed is read back, and sorts as it should.

use proptest::prelude::*;
use protocol::names::{self, CertificateName, ShardPlace};
use protocol::{ContentHash, NBits, Timestamp, Window, WindowKey};

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(),
        -10_000_000_i64..10_000_000,
        Just(Timestamp::MIN.as_micros()),
        Just(Timestamp::MAX.as_micros()),
    ]
    .prop_map(|micros| Timestamp::from_micros(micros).expect("in range"))
}

fn window_key() -> impl Strategy<Value = WindowKey> {
    (time(), 0..10_000_u16)
        .prop_map(|(end, revision)| WindowKey { end: end.floor_to(1_000_000), revision })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn times_read_back(time in time()) {
        prop_assert_eq!(time.to_string().parse(), Ok(time));
        let day = time.day();
        prop_assert!(day.contains(time) && day.start() <= time);
        prop_assert_eq!(day.to_string().len(), 8);
        let second = time.floor_to(1_000_000);
        prop_assert_eq!(Timestamp::from_compact(&time.compact()), Some(second));
    }

    #[test]
    fn windows_read_back(start in time(), end in time()) {
        match Window::new(start, end.floor_to(1_000_000)) {
            Ok(window) => {
                let json = serde_json::to_string(&window).expect("it serialises");
                prop_assert_eq!(serde_json::from_str::<Window>(&json).expect("it reads"), window);
                prop_assert!(window.contains(window.end()) && !window.contains(window.start()));
            }
            Err(_) => prop_assert!(start >= end.floor_to(1_000_000)),
        }
    }

    #[test]
    fn certificates_sort_by_window_then_revision_then_epoch(
        a in (window_key(), 0..10_000_000_000_u64),
        b in (window_key(), 0..10_000_000_000_u64),
    ) {
        let name = |(window, epoch)| CertificateName { window, epoch };
        let key = |(window, epoch)| names::certificate(window, epoch);
        prop_assert_eq!(names::parse_certificate(&key(a)), Some(name(a)));
        prop_assert_eq!(key(a).cmp(&key(b)), name(a).cmp(&name(b)));
        // A listing from a time holds what ends at or after it.
        if b.0.end >= a.0.end {
            prop_assert!(names::certificates_from(a.0.end) < key(b));
        }
    }

    #[test]
    fn names_carry_their_hash_and_only_shards_begin_with_a_digit(
        window in window_key(),
        time in time(),
        bits in 4..=16_u8,
        uid in any::<u64>(),
        part in 0..=names::MAX_PART,
        bytes in any::<[u8; 4]>(),
    ) {
        let hash = ContentHash::of(&bytes);
        let bits = NBits::new(bits).expect("4 to 16");
        let place = ShardPlace {
            day: time.day(),
            index: bits.shard_index(&uid.to_string()),
            window,
            part,
        };
        let shard = names::shard(bits, &place, hash);
        prop_assert!(shard.starts_with(&names::shard_prefix(bits, place.day, place.index)));
        prop_assert!(shard.bytes().take(8).all(|byte| byte.is_ascii_digit()));
        prop_assert_eq!(&shard[8..9], "_");
        prop_assert!(!shard.contains('/'));
        let manifest = names::manifest(window, part, hash);
        let receipt = names::receipt(window, part, hash, hash);
        let (directory, stem) = names::receipts_for(window, part, hash);
        let listed = format!("{directory}/{stem}");
        prop_assert!(receipt.starts_with(&listed));
        for key in [&shard, &manifest, &receipt] {
            prop_assert_eq!(names::content_hash(key), Some(hash));
        }
        for key in [manifest, receipt, names::certificate(window, uid)] {
            prop_assert!(key.starts_with("_des/"));
        }
    }
}

#[test]
fn texts_that_nearly_are_certificate_names_are_refused() {
    let good = "_des/certificates/20241202T000000Z-r0003-e0000000007.json";
    assert!(names::parse_certificate(good).is_some());
    for bad in [
        "_des/certificates/20241202T000000Z-r0003-e7.json",
        "_des/certificates/20241202T000000Z-r3-e0000000007.json",
        "_des/certificates/20241202T000000Z-r0003-e+000000007.json",
        "_des/certificates/20241302T000000Z-r0003-e0000000007.json",
        "_des/certificates/20241202T000000Z-r10000-e0000000007.json",
        "_des/certificates/a/20241202T000000Z-r0003-e0000000007.json",
        "_des/certificates20241202T000000Z-r0003-e0000000007.json",
        "_des/certificates/20241202T000000Z-r0003-e0000000007.json.tmp",
        "",
    ] {
        assert_eq!(names::parse_certificate(bad), None, "{bad}");
    }
}
