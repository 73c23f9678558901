//! The shard: many files of one (UTC day, shard index) in one immutable object.
//!
//! Written as version 2 of the DES format with our lookup extension, so that readers which know
//! only version 2 see an ordinary shard, and ours finds one file with two small reads. The bytes
//! are described in `docs/shard-format.md`.
//!
//! ```text
//! "DES2" header | block 0 | block 1 | … | v2 index | block directory | DESX trailer | "DESI" footer
//!                                         └────── index region, as the footer counts it ──────┘
//! ```

mod index;
mod layout;
mod reader;
mod writer;

pub use index::{IndexEntry, IndexReader, Location};
pub use layout::{FOOTER_BYTES, HEADER_BYTES, TAIL_GUESS_BYTES};
pub use reader::{Block, BlockEntry, Content, PlainIndex, Tail, TailStep, check_header, read_tail};
pub use writer::{Entry, Payload, ShardSummary, ShardWriteError, ShardWriter};

/// Why bytes are not a sound shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Not a shard at all.
    #[error("this is not a DES shard: {0}")]
    NotAShard(&'static str),
    /// A version of the format, or of the lookup extension, that this release does not know.
    #[error(
        "the shard has {what} version {found}, and this release reads up to {known}: use a newer release of des"
    )]
    Newer {
        /// Which version field.
        what: &'static str,
        /// Its value.
        found: u8,
        /// The newest known.
        known: u8,
    },
    /// A flipped bit, a truncation, or a writer's mistake.
    #[error("damaged at byte {offset}: {what}")]
    Damaged {
        /// Where, counted from the beginning of the object.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
}

impl ShardError {
    fn damaged(offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { offset, what: what.into() }
    }
}
