//! Rows as Parquet, compressed with Zstandard; fields that a row does not have are null. Memory: one
//! row group.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use retriever::AuditedRow;

use super::{Columns, Rows};

const SCHEMA: &str = "
message files {
    REQUIRED BYTE_ARRAY uid (UTF8);
    REQUIRED INT64 created_at (TIMESTAMP(MICROS,true));
    OPTIONAL INT64 archived_at (TIMESTAMP(MICROS,true));
    OPTIONAL BYTE_ARRAY shard (UTF8);
    OPTIONAL INT64 offset (INTEGER(64,false));
    OPTIONAL INT64 size (INTEGER(64,false));
    OPTIONAL INT32 crc32c (INTEGER(32,false));
    REQUIRED BYTE_ARRAY status (UTF8);
}";
/// Rows that are kept before they are written as a row group, and bytes of their texts.
const GROUP_ROWS: usize = 64 * 1024;
const GROUP_TEXT_BYTES: usize = 32 * 1024 * 1024;

pub(super) struct ParquetRows<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Group,
}

/// The columns of rows that are not written yet.
#[derive(Default)]
struct Group {
    uid: Vec<ByteArray>,
    created_at: Vec<i64>,
    archived_at: Optional<i64>,
    shard: Optional<ByteArray>,
    offset: Optional<i64>,
    size: Optional<i64>,
    crc32c: Optional<i32>,
    status: Vec<ByteArray>,
    text_bytes: usize,
}

/// A column whose fields may be null.
struct Optional<T> {
    values: Vec<T>,
    /// 1 where there is a value, else 0.
    levels: Vec<i16>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self { values: Vec::new(), levels: Vec::new() }
    }
}

impl<T> Optional<T> {
    fn push(&mut self, value: Option<T>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }
}

impl<W: Write + Send> ParquetRows<W> {
    pub(super) fn new(sink: W) -> anyhow::Result<Self> {
        let schema = parse_message_type(SCHEMA).context("the list's own schema")?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let writer = SerializedFileWriter::new(sink, Arc::new(schema), Arc::new(properties))
            .context("writing the header")?;
        Ok(Self { writer, group: Group::default() })
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.uid.is_empty() {
            return Ok(());
        }
        let mut to = self.writer.next_row_group()?;
        column::<ByteArrayType, W>(&mut to, &group.uid, None)?;
        column::<Int64Type, W>(&mut to, &group.created_at, None)?;
        optional::<Int64Type, W>(&mut to, &group.archived_at)?;
        optional::<ByteArrayType, W>(&mut to, &group.shard)?;
        optional::<Int64Type, W>(&mut to, &group.offset)?;
        optional::<Int64Type, W>(&mut to, &group.size)?;
        optional::<Int32Type, W>(&mut to, &group.crc32c)?;
        column::<ByteArrayType, W>(&mut to, &group.status, None)?;
        to.close()?;
        Ok(())
    }
}

fn optional<T: DataType, W: Write + Send>(
    to: &mut SerializedRowGroupWriter<'_, W>,
    column: &Optional<T::T>,
) -> anyhow::Result<()> {
    self::column::<T, W>(to, &column.values, Some(&column.levels))
}

fn column<T: DataType, W: Write + Send>(
    to: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut column = to.next_column()?.context("the list's own schema has fewer columns")?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()?;
    Ok(())
}

impl<W: Write + Send> Rows for ParquetRows<W> {
    fn add(&mut self, row: &AuditedRow) -> anyhow::Result<()> {
        let it = Columns::of(row);
        let group = &mut self.group;
        group.uid.push(ByteArray::from(row.uid.as_str()));
        group.created_at.push(row.created_at.as_micros());
        group.archived_at.push(it.archived_at.map(|time| time.as_micros()));
        group.shard.push(it.shard.map(ByteArray::from));
        group.offset.push(it.offset.map(u64::cast_signed));
        group.size.push(it.size.map(u64::cast_signed));
        group.crc32c.push(it.crc32c.map(u32::cast_signed));
        group.status.push(ByteArray::from(it.status));
        group.text_bytes += row.uid.len() + it.shard.map_or(0, str::len);
        if group.uid.len() >= GROUP_ROWS || group.text_bytes >= GROUP_TEXT_BYTES {
            self.write_group().context("writing rows")?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.write_group().context("writing the last rows")?;
        let mut sink = self.writer.into_inner().context("writing the footer")?;
        sink.flush().context("writing the footer")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;
    use protocol::{FailureReason, Timestamp};
    use retriever::{AuditedPlace, Fate};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn row(number: usize) -> AuditedRow {
        let place = AuditedPlace {
            object: "shard.des".to_owned(),
            offset: u64::MAX - 1,
            size: number as u64,
            crc32c: Some(u32::MAX),
        };
        let fate = match number % 3 {
            0 => Fate::Failed { at: at("2024-12-10"), reason: FailureReason::Missing },
            1 => Fate::Archived { at: at("2024-12-10"), place },
            _ => Fate::Archived {
                at: at("2024-12-10"),
                place: AuditedPlace { crc32c: None, ..place },
            },
        };
        AuditedRow { uid: format!("{number}-ł"), created_at: at("1969-12-31"), fate }
    }

    #[test]
    fn every_field_reads_back_from_every_row_group() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut rows = Box::new(ParquetRows::new(file.reopen().expect("opens")).expect("a writer"));
        let count = GROUP_ROWS + 7;
        for number in 0..count {
            rows.add(&row(number)).expect("it is written");
        }
        rows.finish().expect("it is complete");
        let reader = SerializedFileReader::new(File::open(file.path()).expect("opens"));
        let reader = reader.expect("it is Parquet");
        assert_eq!(reader.num_row_groups(), 2);
        let mut seen = 0;
        for (number, read) in reader.get_row_iter(None).expect("rows").enumerate() {
            let read = read.expect("a row");
            assert_eq!(read.get_string(0).expect("uid"), &format!("{number}-ł"));
            let micros = read.get_timestamp_micros(1).expect("created_at");
            assert_eq!(micros, at("1969-12-31").as_micros());
            let failed = number % 3 == 0;
            assert_eq!(read.get_timestamp_micros(2).is_err(), failed, "archived_at is null");
            assert_eq!(read.get_string(3).is_err(), failed, "shard is null");
            assert_eq!(read.get_ulong(4).ok(), (!failed).then_some(u64::MAX - 1));
            assert_eq!(read.get_ulong(5).ok(), (!failed).then_some(number as u64));
            assert_eq!(read.get_uint(6).ok(), (number % 3 == 1).then_some(u32::MAX));
            let status = if failed { "missing" } else { "archived" };
            assert_eq!(read.get_string(7).expect("status"), status);
            seen += 1;
        }
        assert_eq!(seen, count);
    }

    #[test]
    fn no_rows_are_a_list_too() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let rows = Box::new(ParquetRows::new(file.reopen().expect("opens")).expect("a writer"));
        rows.finish().expect("it is complete");
        let reader = SerializedFileReader::new(File::open(file.path()).expect("opens"));
        assert_eq!(reader.expect("it is Parquet").metadata().file_metadata().num_rows(), 0);
    }
}
