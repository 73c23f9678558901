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

/// Compresses payloads, one after the other, with contexts and buffers that are reused.
pub struct Encoder {
    codec: CompressionCodec,
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Encoder {
    /// An encoder for `codec`; `level` is zstd's, and ignored by the others.
    ///
    /// # Errors
    /// When no compression context can be allocated, or the level is not one of zstd's.
    pub fn new(codec: CompressionCodec, level: i32) -> std::io::Result<Self> {
        Ok(Self { codec, zstd: zstd::bulk::Compressor::new(level)?, buffer: Vec::new() })
    }

    /// The stored form of `raw`: compressed where that makes it smaller and `try_compress` says
    /// that it may, else as it is. An empty payload becomes an empty zstd frame of nine bytes,
    /// since readers of the format ask for an impossible range where nothing is stored.
    ///
    /// # Errors
    /// When the codec fails, which means that memory is out.
    pub fn encode<'a>(
        &'a mut self,
        raw: &'a [u8],
        try_compress: bool,
    ) -> std::io::Result<(CompressionCodec, &'a [u8])> {
        if raw.is_empty() {
            self.zstd_frame(raw)?;
            return Ok((CompressionCodec::Zstd, &self.buffer));
        }
        match self.codec {
            CompressionCodec::Zstd if try_compress => self.zstd_frame(raw)?,
            CompressionCodec::Lz4 if try_compress => {
                self.buffer.clear();
                let mut frame = lz4_flex::frame::FrameEncoder::new(&mut self.buffer);
                std::io::Write::write_all(&mut frame, raw)?;
                frame.finish().map_err(std::io::Error::other)?;
            }
            _ => return Ok((CompressionCodec::None, raw)),
        }
        if self.buffer.len() < raw.len() {
            Ok((self.codec, &self.buffer))
        } else {
            Ok((CompressionCodec::None, raw))
        }
    }

    /// Gives back buffer memory beyond `bytes`, after a payload much larger than most.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.buffer.clear();
        self.buffer.shrink_to(bytes);
    }

    fn zstd_frame(&mut self, raw: &[u8]) -> std::io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.buffer)?;
        Ok(())
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
        for codec in [CompressionCodec::None, CompressionCodec::Zstd, CompressionCodec::Lz4] {
            let mut encoder = Encoder::new(codec, 3).expect("an encoder");
            for raw in [&text, &noise] {
                let (used, stored) = encoder.encode(raw, true).expect("encodes");
                assert!(stored.len() <= raw.len());
                let stored = stored.to_vec();
                assert_eq!(&decode(used, &stored, raw.len() as u64).expect("decodes"), raw);
                assert!(decode(used, &stored, raw.len() as u64 - 1).is_err());
            }
            let (used, stored) = encoder.encode(b"", true).expect("encodes");
            assert_eq!((used, stored.len()), (CompressionCodec::Zstd, 9));
        }
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
