//! What files hold and how large they are, from a seed.

use std::fmt::Write as _;

use super::{Content, Sizes, Spec};

const SMALLEST_BYTES: u64 = 500;
const SPREAD_BYTES: u64 = 6_001;
/// Of 100 files so many are JSON; the others are incompressible.
const JSON_PERCENT: u64 = 70;
/// Of the logarithm of sizes: the largest of a million are some hundred times the median.
const SIGMA: f64 = 1.0;
/// Sizes beyond so many times the mean are cut.
const LONGEST_TAIL: u64 = 64;
const NOTES: [&str; 8] =
    ["morning", "invoice", "customer", "river", "station", "answer", "quiet", "paper"];

/// Numbers that follow from a seed, a purpose and a number.
pub(super) struct Random {
    stream: blake3::OutputReader,
    buffer: [u8; 64],
    used: usize,
}

impl Random {
    pub(super) fn new(seed: u64, purpose: &str, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes()).update(&number.to_le_bytes());
        Self { stream: hasher.finalize_xof(), buffer: [0; 64], used: 64 }
    }

    fn next(&mut self) -> u64 {
        if self.used == self.buffer.len() {
            self.stream.fill(&mut self.buffer);
            self.used = 0;
        }
        let mut bytes = [0; 8];
        let from = self.buffer.get(self.used..self.used + 8).unwrap_or(&[0; 8]);
        bytes.copy_from_slice(from);
        self.used += 8;
        u64::from_le_bytes(bytes)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Above 0 and at most 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    fn fraction(&mut self) -> f64 {
        (1 + (self.next() >> 11)) as f64 / (1_u64 << 53) as f64
    }
}

/// The size of a file in bytes.
pub(super) fn size(sizes: Sizes, random: &mut Random) -> u64 {
    match sizes {
        Sizes::Even => SMALLEST_BYTES + random.below(SPREAD_BYTES),
        Sizes::Fixed(bytes) => bytes,
        Sizes::Lognormal(mean) => {
            #[expect(clippy::cast_precision_loss, reason = "sizes of files")]
            let middle = (mean.max(1) as f64).ln() - SIGMA * SIGMA / 2.0;
            let (radius, angle) = (random.fraction(), random.fraction());
            let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
            let bytes = (middle + SIGMA * normal).exp();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is positive, and what is too large is cut in the next line"
            )]
            let bytes = bytes as u64;
            bytes.clamp(1, mean.max(1) * LONGEST_TAIL)
        }
    }
}

/// What a file of `size` bytes holds.
pub(super) fn content(spec: &Spec, file: u64, size: u64) -> Vec<u8> {
    let mut random = Random::new(spec.seed, "content", file);
    let size = usize::try_from(size).unwrap_or_default();
    let is_json = spec.content == Content::Mixed && random.below(100) < JSON_PERCENT;
    if is_json { json(file, size, &mut random) } else { noise(size, &mut random) }
}

fn noise(size: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.stream.fill(&mut bytes);
    bytes
}

/// JSON, filled up with line ends to the size that it is to have; cut where there is no room.
fn json(number: u64, size: usize, random: &mut Random) -> Vec<u8> {
    const END: &str = "{}]}";
    let mut text = format!("{{\"document\":{number},\"lines\":[");
    let mut line = String::new();
    loop {
        line.clear();
        let (sku, price) = (random.below(1_000_000), random.below(100_000));
        let (quantity, note) = (random.below(100), random.next().to_le_bytes()[0] % 8);
        let note = NOTES.get(usize::from(note)).copied().unwrap_or_default();
        let written = write!(
            line,
            "{{\"sku\":\"{sku:06}\",\"quantity\":{quantity},\"cents\":{price},\"note\":\"{note}\"}},"
        );
        written.unwrap_or_default();
        if text.len() + line.len() + END.len() > size {
            break;
        }
        text.push_str(&line);
    }
    text.push_str(END);
    let mut bytes = text.into_bytes();
    bytes.resize(size, b'\n');
    bytes
}
