//! How many objects an archive consists of, how many requests it takes to make them, and what they
//! cost: what follows from how windows, partitions and shards are cut. Pure arithmetic on numbers
//! that may be measured or wished for.

/// The store uploads what is larger in parts of this size; beginning and ending it costs one more
/// each.
pub const PART_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
/// What [`Objects::puts`] counts, for a person.
pub const PUTS: &str = "a shard or big file is one PUT up to 8 MiB, else its parts and two; a \
                        partition's manifest, receipt and one listing; a window's certificate";
/// What [`Objects::gets`] counts, for a person.
pub const GETS: &str = "a partition's manifest and its receipt, the size of both and of every shard \
                        and big file; a receipt of many failures may be read again";
const BYTES_PER_GB: f64 = 1e9;

/// What is to be archived.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Files.
    pub files: f64,
    /// Their bytes.
    pub raw_bytes: f64,
    /// Windows that they lie in, at least one.
    pub windows: f64,
    /// Stored bytes to raw bytes.
    pub stored_ratio: f64,
    /// Those of the files that become objects of their own, beside the shards.
    pub big_files: f64,
    /// Their bytes, which are stored as they are.
    pub big_bytes: f64,
}

/// How it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cutting {
    /// Bits of the shard index.
    pub n_bits: u8,
    /// Raw bytes of a shard at most.
    pub max_shard_bytes: f64,
    /// Rows of a partition at most.
    pub partition_rows: f64,
}

/// Objects and requests of the whole of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objects {
    /// Shards.
    pub shards: f64,
    /// Stored bytes of one on average.
    pub shard_bytes: f64,
    /// Partitions.
    pub partitions: f64,
    /// PUT, POST and LIST requests.
    pub puts: f64,
    /// GET and HEAD requests.
    pub gets: f64,
}

/// Objects and requests, were every window like the others.
pub fn objects(volume: Volume, cutting: Cutting) -> Objects {
    let windows = volume.windows.max(1.0);
    let rows = volume.files / windows;
    let packed = (volume.raw_bytes - volume.big_bytes).max(0.0);
    let raw = packed / windows;
    let by_index = f64::from(2_u32.saturating_pow(u32::from(cutting.n_bits)));
    let partitions_each = (rows / cutting.partition_rows).ceil().max(1.0);
    // Cuts fall between shard indexes where they can: a shard is one index, or less.
    let shards_each =
        by_index.min(rows).max(raw / cutting.max_shard_bytes).max(partitions_each).ceil();
    let (shards, partitions) = (shards_each * windows, partitions_each * windows);
    let stored = (volume.raw_bytes * volume.stored_ratio - volume.big_bytes).max(0.0);
    let shard_bytes = stored / shards;
    let of_big_files = volume.big_files * puts(volume.big_bytes / volume.big_files.max(1.0));
    // Manifest and receipt of each partition, a certificate of each window; the worker's look for a
    // receipt is a listing.
    let puts = shards * puts(shard_bytes) + of_big_files + partitions * 3.0 + windows;
    // The worker reads the manifest, the coordinator the receipt; it asks for the size of every object
    // that is named, these two among them.
    let gets = partitions * 2.0 + partitions * 2.0 + shards + volume.big_files;
    Objects { shards, shard_bytes, partitions, puts, gets }
}

/// Requests that an object of this size is written with.
fn puts(bytes: f64) -> f64 {
    if bytes > PART_BYTES { (bytes / PART_BYTES).ceil() + 2.0 } else { 1.0 }
}

/// Prices, all in one currency.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    /// Of 1,000 PUT, POST or LIST requests.
    pub puts: f64,
    /// Of 1,000 GET or HEAD requests.
    pub gets: f64,
    /// Of a GB (10⁹ bytes) stored for a month.
    pub gb_month: f64,
}

/// What it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Requests that write or list.
    pub puts: f64,
    /// Requests that read.
    pub gets: f64,
    /// Stored bytes, each month.
    pub month: f64,
}

/// What objects cost at these prices.
pub fn costs(objects: &Objects, stored_bytes: f64, prices: Prices) -> Costs {
    Costs {
        puts: objects.puts / 1_000.0 * prices.puts,
        gets: objects.gets / 1_000.0 * prices.gets,
        month: stored_bytes / BYTES_PER_GB * prices.gb_month,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUTTING: Cutting = Cutting { n_bits: 8, max_shard_bytes: 1e9, partition_rows: 50_000.0 };

    const NO_BIG: Volume = Volume {
        files: 0.0,
        raw_bytes: 0.0,
        windows: 0.0,
        stored_ratio: 0.0,
        big_files: 0.0,
        big_bytes: 0.0,
    };

    #[test]
    fn big_files_are_written_and_looked_at_one_by_one() {
        let none = Volume { files: 2e5, raw_bytes: 8e8, windows: 2.0, stored_ratio: 0.5, ..NO_BIG };
        // Ten files of a hundred parts each besides.
        let big = 10.0 * 100.0 * PART_BYTES;
        let some = Volume {
            raw_bytes: 8e8 + big,
            stored_ratio: (4e8 + big) / (8e8 + big),
            big_files: 10.0,
            big_bytes: big,
            ..none
        };
        let (none, some) = (objects(none, CUTTING), objects(some, CUTTING));
        assert_eq!((some.shards, some.partitions), (none.shards, none.partitions));
        assert!((some.shard_bytes - none.shard_bytes).abs() < 1e-3, "{some:?}");
        assert!((some.puts - none.puts - 10.0 * 102.0).abs() < 1e-6, "{some:?}");
        assert!((some.gets - none.gets - 10.0).abs() < 1e-6, "{some:?}");
    }

    #[test]
    fn every_window_has_its_shards_partitions_and_certificate() {
        let volume =
            Volume { files: 2e5, raw_bytes: 8e8, windows: 2.0, stored_ratio: 0.5, ..NO_BIG };
        let it = objects(volume, CUTTING);
        assert_eq!((it.shards, it.partitions), (512.0, 4.0));
        assert!((it.shard_bytes - 4e8 / 512.0).abs() < 1e-6);
        assert_eq!((it.puts, it.gets), (512.0 + 12.0 + 2.0, 12.0 + 512.0 + 4.0));
        let prices = Prices { puts: 1.0, gets: 0.1, gb_month: 2.0 };
        let costs = costs(&it, 4e8, prices);
        assert!((costs.puts - 0.526).abs() < 1e-9 && (costs.gets - 0.0528).abs() < 1e-9);
        assert!((costs.month - 0.8).abs() < 1e-9);
    }

    #[test]
    fn few_files_make_few_shards_and_large_ones_are_sent_in_parts() {
        let few = Volume { files: 30.0, raw_bytes: 3e3, windows: 3.0, stored_ratio: 1.0, ..NO_BIG };
        let it = objects(few, CUTTING);
        assert_eq!((it.shards, it.partitions), (30.0, 3.0));
        let large =
            Volume { files: 16.0, raw_bytes: 3.2e10, windows: 1.0, stored_ratio: 1.0, ..NO_BIG };
        let it = objects(large, CUTTING);
        assert_eq!(it.shards, 32.0, "max_shard_size closes them");
        assert!(it.puts > it.shards * 100.0, "{it:?}");
        let nothing =
            Volume { files: 0.0, raw_bytes: 0.0, windows: 0.0, stored_ratio: 1.0, ..NO_BIG };
        assert!(objects(nothing, CUTTING).shard_bytes.is_finite());
    }
}
