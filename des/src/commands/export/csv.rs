//! Rows as CSV (RFC 4180) with a header; fields that a row does not have are empty.

use std::io::Write;

use anyhow::Context as _;
use retriever::AuditedRow;

use super::{Columns, Rows};

/// The header.
pub(super) const NAMES: [&str; 8] =
    ["uid", "created_at", "archived_at", "shard", "offset", "size", "crc32c", "status"];

pub(super) struct CsvRows<W: Write> {
    writer: csv::Writer<W>,
}

impl<W: Write> CsvRows<W> {
    pub(super) fn new(sink: W) -> anyhow::Result<Self> {
        let mut writer = csv::WriterBuilder::new().from_writer(sink);
        writer.write_record(NAMES).context("writing the header")?;
        Ok(Self { writer })
    }
}

impl<W: Write> Rows for CsvRows<W> {
    fn add(&mut self, row: &AuditedRow) -> anyhow::Result<()> {
        let it = Columns::of(row);
        let text = |value: Option<String>| value.unwrap_or_default();
        let record = [
            row.uid.as_str(),
            &row.created_at.to_string(),
            &text(it.archived_at.map(|time| time.to_string())),
            it.shard.unwrap_or_default(),
            &text(it.offset.map(|number| number.to_string())),
            &text(it.size.map(|number| number.to_string())),
            &text(it.crc32c.map(|crc| format!("{crc:08x}"))),
            it.status,
        ];
        self.writer.write_record(record).context("writing a row")
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.writer.flush().context("writing the last rows")
    }
}
