//! A reader of version 2 that knows nothing of the lookup extension, written from the format's
//! description alone: it shares no code with the crate.

use std::io::Read as _;

/// An entry as a reference reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    File(Vec<u8>),
    Big { sha256: String, size: u64 },
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        if count > self.0.len() {
            return Err("the index is cut off".to_owned());
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn text(&mut self, len_width: usize) -> Result<String, String> {
        let len = usize::try_from(self.number(len_width)?).expect("64 bits");
        String::from_utf8(self.take(len)?.to_vec()).map_err(|error| error.to_string())
    }
}

pub(crate) fn read(object: &[u8]) -> Result<Vec<(String, Seen)>, String> {
    if object.len() < 20 || object[..8] != *b"DES2\x02\0\0\0" {
        return Err("no header of version 2".to_owned());
    }
    let (before, footer) = object.split_at(object.len() - 12);
    let mut footer = Fields(footer);
    if footer.take(4)? != b"DESI" {
        return Err("no footer".to_owned());
    }
    let index_size = usize::try_from(footer.number(8)?).expect("64 bits");
    let start = before.len().checked_sub(index_size).ok_or("the index is too large")?;
    let mut index = Fields(&before[start..]);
    let count = index.number(4)?;
    (0..count).map(|_| entry(object, &mut index)).collect()
}

fn entry(object: &[u8], index: &mut Fields<'_>) -> Result<(String, Seen), String> {
    let uid = index.text(2)?;
    let big = index.number(1)? & 1 != 0;
    let seen = if big {
        let sha256 = index.text(2)?;
        Seen::Big { sha256, size: index.number(8)? }
    } else {
        let offset = usize::try_from(index.number(8)?).expect("64 bits");
        let length = usize::try_from(index.number(8)?).expect("64 bits");
        let codec = index.number(1)?;
        let (stored_size, raw_size) = (index.number(8)?, index.number(8)?);
        if length as u64 != stored_size {
            return Err("length is not stored_size".to_owned());
        }
        // Their S3 reader asks for `offset..offset + length - 1`, which nothing answers.
        if length == 0 {
            return Err("an impossible range".to_owned());
        }
        let stored = object.get(offset..offset + length).ok_or("outside the file")?;
        let raw = match codec {
            0 => stored.to_vec(),
            1 => zstd::stream::decode_all(stored).map_err(|error| error.to_string())?,
            2 => {
                let mut raw = Vec::new();
                lz4_flex::frame::FrameDecoder::new(stored)
                    .read_to_end(&mut raw)
                    .map_err(|error| error.to_string())?;
                raw
            }
            _ => return Err("an unknown codec".to_owned()),
        };
        if raw.len() as u64 != raw_size {
            return Err("another raw size".to_owned());
        }
        Seen::File(raw)
    };
    let meta = index.text(4)?;
    if !meta.is_empty() && !meta.starts_with('{') {
        return Err("meta is not an object".to_owned());
    }
    Ok((uid, seen))
}
