//! The manifest: exactly the rows that a partition must hold, in row order.
//!
//! ```text
//! "DESM" | version u16 | header length u32 | header JSON | crc32c of all before it u32
//! frame*   compressed length u32 (not 0) | rows u32 | raw length u32 | crc32c(compressed) u32 | zstd frame
//! end      0 u32 | rows u64 | raw bytes u64 | digest u128 | location digest u128 | crc32c of these u32
//! ```
//!
//! A frame's rows follow each other in the bincode wire layout (little-endian, fixed width).

use serde::{Deserialize, Serialize};

use crate::ident::{ArchiveId, Job, PartitionId, Revision};
use crate::row::{Digest, Row, Tally};
use crate::row_ref::RowRef;
use crate::rows::Rows;
use crate::settings::PackSettings;
use crate::time::Window;
use crate::versioned::DocumentError;

const MAGIC: &[u8; 4] = b"DESM";
/// Version that is written, and the newest that is read.
pub const VERSION: u16 = 1;
/// Raw bytes after which a frame is closed.
const FRAME_BYTES: usize = 256 * 1024;
/// The largest frame that can arise: a full one and one more row with the longest fields.
const MAX_FRAME_BYTES: usize = FRAME_BYTES + 256 * 1024;
const MAX_HEADER_BYTES: usize = 64 * 1024;
const END_BYTES: usize = 4 + 8 + 8 + 16 + 16 + 4;
/// What a row's encoding has beside its texts: the lengths of two and a time, at the least.
const LEAST_ROW_BYTES: usize = 24;
/// The largest that is believed before it was read, in bytes.
const MOST_ROOM: usize = 64 * 1024 * 1024;
/// Manifests are written once and read once: speed before size.
const ZSTD_LEVEL: i32 = 1;
const WHAT: &str = "manifest";

/// What a manifest is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestHeader {
    /// The archive.
    pub archive: ArchiveId,
    /// The job.
    pub job: Job,
    /// The window.
    pub window: Window,
    /// The pass over the window.
    pub revision: Revision,
    /// The partition.
    pub partition: PartitionId,
    /// What to pack with.
    pub settings: PackSettings,
}

/// Consecutive rows of a manifest, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowRange {
    /// The first of them.
    pub first: u64,
    /// How many.
    pub rows: u64,
}

impl RowRange {
    /// Whether the row at this position is one of them.
    pub const fn contains(self, position: u64) -> bool {
        position >= self.first && position - self.first < self.rows
    }

    /// The two halves, of which the first is the longer one by at most a row; a single row cannot
    /// be halved.
    pub const fn halves(self) -> Option<[Self; 2]> {
        if self.rows < 2 {
            return None;
        }
        let second = self.rows / 2;
        let first = self.rows - second;
        Some([
            Self { first: self.first, rows: first },
            Self { first: self.first.saturating_add(first), rows: second },
        ])
    }
}

/// What a finished manifest adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestTotals {
    /// Rows and their digest.
    pub rows: Tally,
    /// Bytes of the rows before compression.
    pub raw_bytes: u64,
    /// Digest over the locations; informational.
    pub locations: Digest,
}

/// Builds a manifest row by row. Memory: the compressed manifest, and one frame.
pub struct ManifestWriter {
    out: Vec<u8>,
    frame: Vec<u8>,
    frame_rows: u32,
    totals: ManifestTotals,
    compressor: zstd::bulk::Compressor<'static>,
}

impl ManifestWriter {
    /// Begins a manifest.
    ///
    /// # Errors
    /// When no compression context can be allocated.
    pub fn new(header: &ManifestHeader) -> std::io::Result<Self> {
        let json = serde_json::to_vec(header)?;
        let mut out = Vec::with_capacity(FRAME_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length(json.len()).to_le_bytes());
        out.extend_from_slice(&json);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        Ok(Self {
            out,
            frame: Vec::with_capacity(FRAME_BYTES),
            frame_rows: 0,
            totals: ManifestTotals::default(),
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
        })
    }

    /// Adds the next row. Rows are to come in row order, which is the caller's to keep.
    ///
    /// # Errors
    /// When a frame cannot be compressed.
    pub fn push(&mut self, row: &Row) -> std::io::Result<()> {
        row.encode_into(&mut self.frame)?;
        self.count(RowRef::from(row))
    }

    /// Adds the next row as [`Row::encode_into`] has written it.
    ///
    /// # Errors
    /// When the bytes are not exactly one row, or a frame cannot be compressed.
    pub fn push_encoded(&mut self, encoded: &[u8]) -> std::io::Result<()> {
        let row = RowRef::decode(encoded)?;
        self.frame.extend_from_slice(encoded);
        self.count(row)
    }

    fn count(&mut self, row: RowRef<'_>) -> std::io::Result<()> {
        self.frame_rows += 1;
        self.totals.rows.count(row.uid, row.created_at());
        if let Some(location) = row.location {
            self.totals.locations += Digest::of_location(row.uid, location);
        }
        if self.frame.len() >= FRAME_BYTES { self.close_frame() } else { Ok(()) }
    }

    /// Bytes of rows so far, before compression.
    pub fn raw_bytes(&self) -> u64 {
        self.totals.raw_bytes + self.frame.len() as u64
    }

    /// Ends the manifest.
    ///
    /// # Errors
    /// When the last frame cannot be compressed.
    pub fn finish(mut self) -> std::io::Result<(Vec<u8>, ManifestTotals)> {
        self.close_frame()?;
        let end = self.out.len();
        self.out.extend_from_slice(&0_u32.to_le_bytes());
        self.out.extend_from_slice(&self.totals.rows.rows.to_le_bytes());
        self.out.extend_from_slice(&self.totals.raw_bytes.to_le_bytes());
        self.out.extend_from_slice(&self.totals.rows.digest.0.to_le_bytes());
        self.out.extend_from_slice(&self.totals.locations.0.to_le_bytes());
        self.out.extend_from_slice(&crc32c::crc32c(&self.out[end..]).to_le_bytes());
        Ok((self.out, self.totals))
    }

    fn close_frame(&mut self) -> std::io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let compressed = self.compressor.compress(&self.frame)?;
        self.out.extend_from_slice(&length(compressed.len()).to_le_bytes());
        self.out.extend_from_slice(&self.frame_rows.to_le_bytes());
        self.out.extend_from_slice(&length(self.frame.len()).to_le_bytes());
        self.out.extend_from_slice(&crc32c::crc32c(&compressed).to_le_bytes());
        self.out.extend_from_slice(&compressed);
        self.totals.raw_bytes += self.frame.len() as u64;
        self.frame.clear();
        self.frame_rows = 0;
        Ok(())
    }
}

/// Frames and headers are bounded far below 4 GiB, so that their lengths always fit.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Reads a manifest frame by frame. Every byte is covered by a checksum; what was read is
/// compared with the totals at the end.
pub struct ManifestReader<'a> {
    header: ManifestHeader,
    rest: &'a [u8],
    totals: ManifestTotals,
    done: bool,
}

impl<'a> ManifestReader<'a> {
    /// Opens a manifest.
    ///
    /// # Errors
    /// When the bytes are no manifest, are damaged, or were written by a newer release.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let mut cursor = bytes;
        if take(&mut cursor, 4)? != MAGIC {
            return Err(malformed("it does not begin with DESM"));
        }
        let version = u16::from_le_bytes(array(take(&mut cursor, 2)?));
        if version > VERSION {
            return Err(DocumentError::Newer {
                what: WHAT,
                found: version.into(),
                known: VERSION.into(),
            });
        }
        if version == 0 {
            return Err(malformed("version 0 does not exist"));
        }
        let header_len = u32::from_le_bytes(array(take(&mut cursor, 4)?)) as usize;
        if header_len > MAX_HEADER_BYTES {
            return Err(malformed("its header is too long"));
        }
        let json = take(&mut cursor, header_len)?;
        let covered = &bytes[..10 + header_len];
        if u32::from_le_bytes(array(take(&mut cursor, 4)?)) != crc32c::crc32c(covered) {
            return Err(malformed("the checksum of its header is wrong"));
        }
        let header = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { header, rest: cursor, totals: ManifestTotals::default(), done: false })
    }

    /// What the manifest is about.
    pub const fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// Reads the next frame and calls `visit` with each of its rows. Returns false at the end, once
    /// the totals were found to agree. Memory: the frame.
    ///
    /// # Errors
    /// When the manifest is damaged or truncated.
    pub fn next_frame(&mut self, mut visit: impl FnMut(RowRef<'_>)) -> Result<bool, DocumentError> {
        if self.done {
            return Ok(false);
        }
        let before = self.rest;
        let compressed_len = u32::from_le_bytes(array(take(&mut self.rest, 4)?)) as usize;
        if compressed_len == 0 {
            self.check_end(before)?;
            self.done = true;
            return Ok(false);
        }
        let row_count = u32::from_le_bytes(array(take(&mut self.rest, 4)?)) as usize;
        let raw_len = u32::from_le_bytes(array(take(&mut self.rest, 4)?)) as usize;
        let crc = u32::from_le_bytes(array(take(&mut self.rest, 4)?));
        let compressed = take(&mut self.rest, compressed_len)?;
        if crc32c::crc32c(compressed) != crc {
            return Err(malformed("the checksum of a frame is wrong"));
        }
        if raw_len > MAX_FRAME_BYTES || row_count > raw_len {
            return Err(malformed("a frame is larger than any writer makes them"));
        }
        let raw = zstd::bulk::decompress(compressed, raw_len)
            .map_err(|error| malformed(error.to_string()))?;
        if raw.len() != raw_len {
            return Err(malformed("a frame has another length than it states"));
        }
        let mut cursor = raw.as_slice();
        for _ in 0..row_count {
            let row = RowRef::take(&mut cursor).map_err(|error| malformed(error.to_string()))?;
            self.totals.rows.count(row.uid, row.created_at());
            if let Some(location) = row.location {
                self.totals.locations += Digest::of_location(row.uid, location);
            }
            visit(row);
        }
        if !cursor.is_empty() {
            return Err(malformed("a frame holds more than its rows"));
        }
        self.totals.raw_bytes += raw_len as u64;
        Ok(true)
    }

    /// Room for all rows, as far as the end of the manifest is right, which is known when all was read:
    /// never more than for 64 MiB.
    pub fn room(&self) -> Rows {
        let number = |at: usize| {
            let from = self.rest.len().checked_sub(END_BYTES)?;
            self.rest[from..].get(at..at + 8).map(|bytes| u64::from_le_bytes(array(bytes)))
        };
        let up_to = |number: Option<u64>| {
            usize::try_from(number.unwrap_or_default()).unwrap_or(usize::MAX).min(MOST_ROOM)
        };
        let bytes = up_to(number(12));
        let rows = up_to(number(4)).min(bytes / LEAST_ROW_BYTES);
        Rows::with_capacity(rows, bytes - rows * LEAST_ROW_BYTES)
    }

    /// Reads all rows. Memory: all of them.
    ///
    /// # Errors
    /// When the manifest is damaged or truncated.
    pub fn read_all(self) -> Result<(Rows, ManifestTotals), DocumentError> {
        let mut all = self.room();
        let totals = self.visit(|_position, row| all.push(row))?;
        Ok((all, totals))
    }

    /// Reads to the end and calls `visit` with each row and its position, counted from 0. What was
    /// visited is to be trusted once this has returned without an error. Memory: a frame.
    ///
    /// # Errors
    /// When the manifest is damaged or truncated.
    pub fn visit(
        mut self,
        mut visit: impl FnMut(u64, RowRef<'_>),
    ) -> Result<ManifestTotals, DocumentError> {
        let mut position = 0;
        let mut counted = |row: RowRef<'_>| {
            visit(position, row);
            position += 1;
        };
        while self.next_frame(&mut counted)? {}
        Ok(self.totals)
    }

    fn check_end(&self, end: &[u8]) -> Result<(), DocumentError> {
        if end.len() != END_BYTES {
            return Err(malformed("it is truncated, or something follows its end"));
        }
        let (covered, crc) = end.split_at(END_BYTES - 4);
        if u32::from_le_bytes(array(crc)) != crc32c::crc32c(covered) {
            return Err(malformed("the checksum of its end is wrong"));
        }
        let stated = ManifestTotals {
            rows: Tally {
                rows: u64::from_le_bytes(array(&covered[4..12])),
                digest: Digest(u128::from_le_bytes(array(&covered[20..36]))),
            },
            raw_bytes: u64::from_le_bytes(array(&covered[12..20])),
            locations: Digest(u128::from_le_bytes(array(&covered[36..52]))),
        };
        if stated == self.totals {
            Ok(())
        } else {
            Err(malformed("its rows do not add up to its totals"))
        }
    }
}

fn malformed(why: impl Into<String>) -> DocumentError {
    DocumentError::Malformed { what: WHAT, why: why.into() }
}

fn take<'a>(cursor: &mut &'a [u8], count: usize) -> Result<&'a [u8], DocumentError> {
    let (taken, rest) =
        cursor.split_at_checked(count).ok_or_else(|| malformed("it is truncated"))?;
    *cursor = rest;
    Ok(taken)
}

/// The callers take slices of exactly `N` bytes.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
