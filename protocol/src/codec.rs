//! Compression of payloads, in the three codecs of the format.

use std::io::Read;

use serde::{Deserialize, Serialize};

/// How a payload is stored. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionCodec {
    /// As it is.
    None,
    /// One independent zstd frame without a dictionary.
    Zstd,
    /// One LZ4 frame.
    Lz4,
}

impl CompressionCodec {
    /// The codec's number in index entries.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Lz4 => 2,
        }
    }

    /// The codec of a number; `None` for those that no version of the format defines.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// Endings of file names whose content is compressed already, so that trying again is wasted
/// time. Lower case.
const COMPRESSED_ENDINGS: [&str; 32] = [
    "7z", "aac", "avif", "br", "bz2", "docx", "epub", "flac", "gif", "gz", "heic", "jar", "jpeg",
    "jpg", "lz4", "m4a", "mkv", "mov", "mp3", "mp4", "odt", "ogg", "opus", "png", "pptx", "rar",
    "tgz", "webm", "webp", "xlsx", "xz", "zip",
];

/// Whether a file of this name is compressed already, by its ending.
pub fn is_compressed_name(name: &str) -> bool {
    let Some((stem, ending)) = name.rsplit_once('.') else { return false };
    !stem.is_empty()
        && (ending.eq_ignore_ascii_case("zst")
            || COMPRESSED_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// How many bytes are looked at, spread over the whole payload, to see whether it looks random, and how
/// many of them are then different. Of n random bytes 256 (1 - e^(-n/256)) are: of 64 they are 57, with a
/// standard deviation of 2.3, of 512 they are 221, with one of 4.5. Of 512, text, JSON and programs have
/// fewer than 150, arrays of numbers fewer than 205; most of these have too few among 64 already.
const LOOKS: [(usize, u32); 2] = [(64, 45), (512, 212)];

/// Whether a payload looks like what cannot be compressed: encrypted, or compressed already.
fn looks_random(raw: &[u8]) -> bool {
    let (most, _) = LOOKS[LOOKS.len() - 1];
    raw.len() >= most
        && LOOKS.iter().all(|&(bytes, different)| has_different(raw, bytes, different))
}

/// Whether `bytes` bytes, spread over the whole, have at least so many different values.
fn has_different(raw: &[u8], bytes: usize, different: u32) -> bool {
    let mut seen = [0_u64; 4];
    for at in 0..bytes {
        let byte = raw[at * raw.len() / bytes];
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() >= different
}

/// Compresses payloads, one after the other, with a context that is reused.
pub struct Encoder {
    codec: CompressionCodec,
    zstd: zstd::bulk::Compressor<'static>,
}

impl Encoder {
    /// An encoder for `codec`; `level` is zstd's, and ignored by the others.
    ///
    /// # Errors
    /// When no compression context can be allocated, or the level is not one of zstd's.
    pub fn new(codec: CompressionCodec, level: i32) -> std::io::Result<Self> {
        Ok(Self { codec, zstd: zstd::bulk::Compressor::new(level)? })
    }

    /// Appends the stored form of `raw` to `out`, and says how it is stored: compressed where that
    /// makes it smaller, unless `try_compress` says that it may not or it looks random, else as it is. An empty payload becomes
    /// an empty zstd frame of nine bytes, since readers of the format ask for an impossible range
    /// where nothing is stored.
    ///
    /// # Errors
    /// When the codec fails, which means that memory is out.
    pub fn encode_onto(
        &mut self,
        raw: &[u8],
        try_compress: bool,
        out: &mut Vec<u8>,
    ) -> std::io::Result<CompressionCodec> {
        let start = out.len();
        if raw.is_empty() {
            self.zstd_frame(raw, out)?;
            return Ok(CompressionCodec::Zstd);
        }
        let try_compress = try_compress && !looks_random(raw);
        match self.codec {
            CompressionCodec::Zstd if try_compress => self.zstd_frame(raw, out)?,
            CompressionCodec::Lz4 if try_compress => {
                let mut frame = lz4_flex::frame::FrameEncoder::new(&mut *out);
                std::io::Write::write_all(&mut frame, raw)?;
                frame.finish().map_err(std::io::Error::other)?;
            }
            _ => {
                out.extend_from_slice(raw);
                return Ok(CompressionCodec::None);
            }
        }
        if out.len() - start < raw.len() {
            return Ok(self.codec);
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Ok(CompressionCodec::None)
    }

    fn zstd_frame(&mut self, raw: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let end = out.len() as u64;
        let mut behind = std::io::Cursor::new(std::mem::take(out));
        behind.set_position(end);
        let compressed = self.zstd.compress_to_buffer(raw, &mut behind);
        *out = behind.into_inner();
        compressed.map(drop)
    }
}

/// Why a payload cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The codec refuses the bytes.
    #[error("the codec refuses it: {0}")]
    Refused(String),
    /// The decoded bytes are more or fewer than stated.
    #[error("it decodes to another size than {stated} bytes")]
    WrongSize {
        /// The size that the index states.
        stated: u64,
    },
}

/// The raw bytes of a stored payload. Memory grows with what the payload really decodes to, and
/// ends at `raw_size`, whatever the payload claims.
///
/// # Errors
/// When the codec refuses the bytes or their decoded size is not `raw_size`.
pub fn decode(
    codec: CompressionCodec,
    stored: &[u8],
    raw_size: u64,
) -> Result<Vec<u8>, DecodeError> {
    let raw = match codec {
        CompressionCodec::None => stored.to_vec(),
        CompressionCodec::Zstd => {
            let refused = |error: std::io::Error| DecodeError::Refused(error.to_string());
            let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(refused)?;
            read_at_most(decoder, stored.len(), raw_size).map_err(refused)?
        }
        CompressionCodec::Lz4 => {
            let decoder = lz4_flex::frame::FrameDecoder::new(stored);
            read_at_most(decoder, stored.len(), raw_size)
                .map_err(|error| DecodeError::Refused(error.to_string()))?
        }
    };
    if raw.len() as u64 == raw_size {
        Ok(raw)
    } else {
        Err(DecodeError::WrongSize { stated: raw_size })
    }
}

/// Payloads up to this size are decoded in one piece, into memory that is kept.
const ONE_PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// Decodes payloads, one after the other, with a context and a buffer that are reused.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
}

impl Decoder {
    /// # Errors
    /// When no decompression context can be allocated.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, raw: Vec::new() })
    }

    /// What [`decode`] gives, for a fraction of the time where payloads are small.
    ///
    /// # Errors
    /// Those of [`decode`].
    pub fn decode<'a>(
        &'a mut self,
        codec: CompressionCodec,
        stored: &'a [u8],
        raw_size: u64,
    ) -> Result<&'a [u8], DecodeError> {
        if codec == CompressionCodec::None && stored.len() as u64 == raw_size {
            return Ok(stored);
        }
        if codec == CompressionCodec::Zstd
            && raw_size <= ONE_PIECE_BYTES
            && self.one_piece(stored, raw_size)
        {
            return Ok(&self.raw);
        }
        // What is not as usual is looked at with care.
        self.raw = decode(codec, stored, raw_size)?;
        Ok(&self.raw)
    }

    /// Whether the payload is a frame that states this size and decodes to it.
    fn one_piece(&mut self, stored: &[u8], raw_size: u64) -> bool {
        let stated = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten();
        let Some(capacity) = usize::try_from(raw_size).ok().filter(|_| stated == Some(raw_size))
        else {
            return false;
        };
        self.raw.clear();
        self.raw.reserve(capacity);
        let decoded = self.zstd.decompress_to_buffer(stored, &mut self.raw);
        decoded.is_ok_and(|length| length as u64 == raw_size)
    }
}

fn read_at_most(decoder: impl Read, stored: usize, raw_size: u64) -> std::io::Result<Vec<u8>> {
    let plausible = (stored as u64).saturating_mul(16).saturating_add(4096).min(raw_size);
    let mut raw = Vec::with_capacity(usize::try_from(plausible).unwrap_or(0));
    decoder.take(raw_size.saturating_add(1)).read_to_end(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_reads_back_and_never_grows_a_payload() {
        let text = "the same words again and again, ".repeat(50).into_bytes();
        let noise: Vec<u8> = (0..200_u32)
            .flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..7].to_vec())
            .collect();
        let mut decoder = Decoder::new().expect("a decoder");
        for codec in [CompressionCodec::None, CompressionCodec::Zstd, CompressionCodec::Lz4] {
            let mut encoder = Encoder::new(codec, 3).expect("an encoder");
            for raw in [&text, &noise] {
                let mut out = b"what was there before".to_vec();
                let before = out.len();
                let used = encoder.encode_onto(raw, true, &mut out).expect("encodes");
                assert_eq!(&out[..before], b"what was there before");
                let stored = &out[before..];
                assert!(stored.len() <= raw.len());
                assert_eq!(&decode(used, stored, raw.len() as u64).expect("decodes"), raw);
                assert!(decode(used, stored, raw.len() as u64 - 1).is_err());
                for (bytes, size) in [
                    (stored, raw.len() as u64),
                    (stored, raw.len() as u64 - 1),
                    (stored, raw.len() as u64 + 1),
                    (&stored[..stored.len() / 2], raw.len() as u64),
                    (&stored[1..], raw.len() as u64),
                    (&[stored, stored].concat(), raw.len() as u64),
                ] {
                    let again = decoder.decode(used, bytes, size).map(<[u8]>::to_vec);
                    assert_eq!(again, decode(used, bytes, size));
                }
            }
            let mut stored = Vec::new();
            let used = encoder.encode_onto(b"", true, &mut stored).expect("encodes");
            assert_eq!((used, stored.len()), (CompressionCodec::Zstd, 9));
        }
    }

    #[test]
    fn only_what_looks_random_everywhere_is_not_tried() {
        let random = |count: u32| -> Vec<u8> {
            (0..count.div_ceil(32))
                .flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
                .take(count as usize)
                .collect()
        };
        let numbers = (0..1_500_u16).flat_map(|n| (f32::from(n) * 0.37).sqrt().to_le_bytes());
        let numbers: Vec<u8> = numbers.collect();
        let words = "the same words again and again, ".repeat(60).into_bytes();
        let told = (512..6_000).step_by(97).filter(|&count| looks_random(&random(count)));
        assert!(told.count() >= 50, "of 57");
        assert!(!looks_random(&random(511)), "too little to tell");
        assert!(!looks_random(&numbers) && !looks_random(&words));
        assert!(!looks_random(&[random(2_000), words].concat()));
        // A megabyte of which every fourth byte is text.
        let mut mixed = random(1_000_000);
        mixed.iter_mut().step_by(4).for_each(|byte| *byte = b' ');
        assert!(!looks_random(&mixed));
    }

    #[test]
    fn compressed_names_are_known_by_their_ending() {
        assert!(is_compressed_name("/a/b.JPG") && is_compressed_name("x.tar.zst"));
        assert!(
            !is_compressed_name("/a.gz/b")
                && !is_compressed_name(".gz")
                && !is_compressed_name("gz")
        );
    }
}
