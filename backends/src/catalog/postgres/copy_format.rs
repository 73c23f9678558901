//! The binary format of PostgreSQL's COPY, read as it arrives.
//!
//! Bytes in, tuples out; no I/O. Chunks may end anywhere, also inside a field.
//! <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT>

use std::ops::Range;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags and the length of the header's extension.
const HEADER_BYTES: usize = SIGNATURE.len() + 4 + 4;
/// The most fields that a tuple may have here.
pub(super) const MAX_FIELDS: usize = 4;
/// What the buffer may keep between tuples; a larger one is given back.
const KEPT_BYTES: usize = 1024 * 1024;

/// Bytes that are not what COPY sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the binary format of COPY: {0}")]
pub(super) struct Malformed(&'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Header,
    Tuples,
    End,
}

/// Turns the chunks of one COPY into tuples.
pub(super) struct Decoder {
    fields: usize,
    position: Position,
    buffer: Vec<u8>,
    /// Where in the buffer the next thing begins.
    read: usize,
}

/// One row: its fields in the order of the statement.
#[derive(Debug)]
pub(super) struct Tuple<'a> {
    bytes: &'a [u8],
    fields: [Option<Range<usize>>; MAX_FIELDS],
}

impl Tuple<'_> {
    /// The field's bytes; `None` for NULL, and beyond the last field.
    pub(super) fn field(&self, index: usize) -> Option<&[u8]> {
        let range = self.fields.get(index)?.clone()?;
        self.bytes.get(range)
    }
}

impl Decoder {
    /// For tuples of exactly `fields` fields, at most [`MAX_FIELDS`].
    pub(super) const fn new(fields: usize) -> Self {
        Self { fields, position: Position::Header, buffer: Vec::new(), read: 0 }
    }

    /// Adds the next chunk, after [`Decoder::next`] has answered `None`.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(KEPT_BYTES);
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// The next tuple; `None` when it has not arrived as a whole, or the end has been read.
    pub(super) fn next(&mut self) -> Result<Option<Tuple<'_>>, Malformed> {
        if self.position == Position::Header && !self.read_header()? {
            return Ok(None);
        }
        let rest = &self.buffer[self.read..];
        if self.position == Position::End {
            return if rest.is_empty() { Ok(None) } else { Err(Malformed("bytes after its end")) };
        }
        let Some((count, _)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        match i16::from_be_bytes(*count) {
            -1 => {
                self.position = Position::End;
                self.read += 2;
                self.next()
            }
            count if usize::try_from(count) == Ok(self.fields) => self.read_tuple(),
            _ => Err(Malformed("a tuple of another number of fields")),
        }
    }

    /// Checks that the end was seen, once there are no more chunks.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.position == Position::End && self.read == self.buffer.len() {
            Ok(())
        } else {
            Err(Malformed("it stops before its end"))
        }
    }

    fn read_header(&mut self) -> Result<bool, Malformed> {
        let seen = self.buffer.len().min(SIGNATURE.len());
        if self.buffer[..seen] != SIGNATURE[..seen] {
            return Err(Malformed("another signature"));
        }
        let Some(header) = self.buffer.get(..HEADER_BYTES) else { return Ok(false) };
        let flags = number(header, SIGNATURE.len()).unwrap_or_default();
        // The upper half are features that a reader must know; one is "with OIDs". We know none.
        if flags.cast_unsigned() >> 16 != 0 {
            return Err(Malformed("flags that are not known here"));
        }
        let extension = number(header, SIGNATURE.len() + 4).unwrap_or_default();
        let extension =
            usize::try_from(extension).map_err(|_| Malformed("a header of negative length"))?;
        if self.buffer.len() < HEADER_BYTES + extension {
            return Ok(false);
        }
        self.read = HEADER_BYTES + extension;
        self.position = Position::Tuples;
        Ok(true)
    }

    fn read_tuple(&mut self) -> Result<Option<Tuple<'_>>, Malformed> {
        let begin = self.read;
        let mut at = begin + 2;
        let mut fields = [const { None }; MAX_FIELDS];
        for field in fields.iter_mut().take(self.fields) {
            let Some(length) = number(&self.buffer, at) else { return Ok(None) };
            at += 4;
            match usize::try_from(length) {
                Ok(length) if length <= self.buffer.len() - at => {
                    *field = Some(at - begin..at - begin + length);
                    at += length;
                }
                Ok(_) => return Ok(None),
                Err(_) if length == -1 => {}
                Err(_) => return Err(Malformed("a field of negative length")),
            }
        }
        self.read = at;
        Ok(Some(Tuple { bytes: &self.buffer[begin..at], fields }))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk::<4>().map(|number| i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<Option<Vec<u8>>>;

    fn encode(extension: &[u8], tuples: &[Fields]) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).expect("a short field").to_be_bytes();
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0, 0, 0, 1]); // a flag that readers may ignore
        bytes.extend(length(extension.len()));
        bytes.extend(extension);
        for tuple in tuples {
            bytes.extend(u16::try_from(tuple.len()).expect("few fields").to_be_bytes());
            for field in tuple {
                match field {
                    Some(field) => {
                        bytes.extend(length(field.len()));
                        bytes.extend(field);
                    }
                    None => bytes.extend((-1_i32).to_be_bytes()),
                }
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    fn decode<'a>(
        fields: usize,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Fields>, Malformed> {
        let mut decoder = Decoder::new(fields);
        let mut tuples = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(tuple) = decoder.next()? {
                tuples.push((0..fields).map(|n| tuple.field(n).map(<[u8]>::to_vec)).collect());
            }
        }
        decoder.finish()?;
        Ok(tuples)
    }

    fn sample() -> Vec<Fields> {
        vec![
            vec![Some(b"uid".to_vec()), None, Some(Vec::new())],
            vec![Some(vec![0xff; 300]), Some(b"\0\0\0\x01".to_vec()), None],
        ]
    }

    #[test]
    fn every_single_cut_gives_the_same_tuples() {
        let bytes = encode(b"future", &sample());
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(decode(3, [head, tail]), Ok(sample()), "cut at {cut}");
        }
        assert_eq!(decode(3, bytes.chunks(1)), Ok(sample()));
    }

    #[test]
    fn every_missing_end_is_noticed() {
        let bytes = encode(b"", &sample());
        for length in 0..bytes.len() {
            assert!(decode(3, [&bytes[..length]]).is_err(), "{length} bytes");
        }
        let extra = [bytes.as_slice(), b"x"].concat();
        assert!(decode(3, [extra.as_slice()]).is_err());
    }

    #[test]
    fn what_is_not_this_format_is_refused() {
        let bytes = encode(b"", &sample());
        assert!(decode(2, [bytes.as_slice()]).is_err(), "another number of fields");
        let with = |at: usize, byte: u8| {
            let mut changed = bytes.clone();
            changed[at] = byte;
            decode(3, [changed.as_slice()])
        };
        assert!(with(6, b'\r').is_err(), "a mangled signature");
        assert!(with(12, 1).is_err(), "tuples with OIDs");
        assert!(with(15, 0x80).is_err(), "an extension of negative length");
        assert!(with(21, 0x80).is_err(), "a field of negative length");
    }

    #[test]
    fn a_huge_tuple_does_not_keep_its_memory() {
        let tuples = vec![vec![Some(vec![7; 4 * KEPT_BYTES])], vec![None]];
        let bytes = encode(b"", &tuples);
        let mut decoder = Decoder::new(1);
        for chunk in bytes.chunks(64 * 1024) {
            decoder.push(chunk);
            while decoder.next().expect("tuples").is_some() {}
        }
        decoder.push(b"");
        assert!(decoder.buffer.capacity() <= KEPT_BYTES);
        assert_eq!(decoder.finish(), Ok(()));
    }

    proptest! {
        #[test]
        fn any_cutting_of_any_tuples_reads_back(
            tuples in prop::collection::vec(
                prop::collection::vec(
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 4..=4),
                0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            extension in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let bytes = encode(&extension, &tuples);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(decode(4, chunks), Ok(tuples));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let valid = [SIGNATURE, &[0; 8], &bytes].concat();
            let _ = decode(3, [bytes.as_slice()]);
            let _ = decode(3, valid.chunks(7));
        }
    }
}
