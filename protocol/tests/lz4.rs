//! LZ4 frames in all the variants that packers may have written.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use protocol::codec::{CompressionCodec, DecodeError, decode};
use std::io::Write as _;

fn text() -> Vec<u8> {
    (0..3500)
        .flat_map(|i: u32| {
            format!("line {} of the file that every variant holds\n", i * i % 97).into_bytes()
        })
        .collect()
}

/// Xorshift, so that nothing compresses.
fn noise(bytes: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Frames made once with the reference implementation's command line (`lz4` 1.9.4).
#[test]
fn frames_of_the_reference_implementation_decode() {
    macro_rules! frame {
        ($name:literal) => {
            ($name, include_bytes!(concat!("../fixtures/lz4/", $name, ".lz4")).as_slice())
        };
    }
    for (name, frame) in [
        frame!("b4-independent"),
        frame!("b4-linked"),
        frame!("b4-linked-block-checksums-content-size"),
        frame!("b5-linked-level-12"),
        frame!("b7-no-content-checksum"),
    ] {
        let raw = text();
        assert_eq!(decode(CompressionCodec::Lz4, frame, raw.len() as u64), Ok(raw), "{name}");
    }
    let (name, frame) = frame!("noise-block-checksums");
    assert_eq!(decode(CompressionCodec::Lz4, frame, 3000), Ok(noise(3000)), "{name}");
    let (name, frame) = frame!("empty");
    assert_eq!(decode(CompressionCodec::Lz4, frame, 0), Ok(Vec::new()), "{name}");
}

#[test]
fn every_combination_of_frame_options_decodes() {
    let sizes = [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB];
    for raw in [Vec::new(), b"x".to_vec(), text(), noise(200_000)] {
        for (size, mode) in sizes
            .into_iter()
            .flat_map(|size| [(size, BlockMode::Independent), (size, BlockMode::Linked)])
        {
            for options in 0..8 {
                let info = FrameInfo::new()
                    .block_size(size)
                    .block_mode(mode)
                    .block_checksums(options & 1 != 0)
                    .content_checksum(options & 2 != 0)
                    .content_size((options & 4 != 0).then_some(raw.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&raw).expect("writing to memory succeeds");
                let frame = encoder.finish().expect("the frame ends");
                let decoded = decode(CompressionCodec::Lz4, &frame, raw.len() as u64);
                assert_eq!(decoded.as_ref(), Ok(&raw), "{size:?} {mode:?} {options}");
            }
        }
    }
}

#[test]
fn another_size_than_stated_is_an_error_and_no_more_memory_than_stated() {
    let raw = vec![0_u8; 8 << 20];
    for codec in [CompressionCodec::Zstd, CompressionCodec::Lz4] {
        let mut encoder = protocol::codec::Encoder::new(codec, 3).expect("an encoder");
        let mut stored = Vec::new();
        let used = encoder.encode_onto(&raw, true, &mut stored).expect("it compresses");
        assert_eq!(used, codec);
        for stated in [0, 1, 100, raw.len() as u64 - 1, raw.len() as u64 + 1, u64::MAX] {
            let refused = decode(codec, &stored, stated);
            assert_eq!(refused, Err(DecodeError::WrongSize { stated }), "{codec:?} {stated}");
        }
    }
}
