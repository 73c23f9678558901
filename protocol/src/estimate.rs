//! How many objects an archive consists of, how many requests it takes to make them, and what they
//! cost: what follows from how windows, partitions and shards are cut. Pure arithmetic on numbers
//! that may be measured or wished for.

/// The store uploads what is larger in parts of this size; beginning and ending it costs one more
/// each.
pub const PART_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
/// What [`Objects::puts`] counts, for a person.
pub const PUTS: &str = "a shard is one PUT up to 8 MiB, else its parts and two; a partition's \
                        manifest, receipt and one listing; a window's certificate";
/// What [`Objects::gets`] counts, for a person.
pub const GETS: &str = "a partition's manifest, its receipt twice, the size of its receipt and of \
                        every shard";
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
    let raw = volume.raw_bytes / windows;
    let by_index = f64::from(2_u32.saturating_pow(u32::from(cutting.n_bits)));
    let partitions_each = (rows / cutting.partition_rows).ceil().max(1.0);
    // Cuts fall between shard indexes where they can: a shard is one index, or less.
    let shards_each =
        by_index.min(rows).max(raw / cutting.max_shard_bytes).max(partitions_each).ceil();
    let (shards, partitions) = (shards_each * windows, partitions_each * windows);
    let shard_bytes = raw * volume.stored_ratio / shards_each;
    let parts =
        if shard_bytes > PART_BYTES { (shard_bytes / PART_BYTES).ceil() + 2.0 } else { 1.0 };
    // Manifest and receipt of each partition, a certificate of each window; the worker's look for a
    // receipt is a listing.
    let puts = shards * parts + partitions * 3.0 + windows;
    // The worker reads the manifest; the coordinator reads the receipt twice and asks for the size of
    // every object that is named.
    let gets = partitions * 3.0 + shards + partitions;
    Objects { shards, shard_bytes, partitions, puts, gets }
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

    #[test]
    fn every_window_has_its_shards_partitions_and_certificate() {
        let volume = Volume { files: 2e5, raw_bytes: 8e8, windows: 2.0, stored_ratio: 0.5 };
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
        let few = Volume { files: 30.0, raw_bytes: 3e3, windows: 3.0, stored_ratio: 1.0 };
        let it = objects(few, CUTTING);
        assert_eq!((it.shards, it.partitions), (30.0, 3.0));
        let large = Volume { files: 16.0, raw_bytes: 3.2e10, windows: 1.0, stored_ratio: 1.0 };
        let it = objects(large, CUTTING);
        assert_eq!(it.shards, 32.0, "max_shard_size closes them");
        assert!(it.puts > it.shards * 100.0, "{it:?}");
        let nothing = Volume { files: 0.0, raw_bytes: 0.0, windows: 0.0, stored_ratio: 1.0 };
        assert!(objects(nothing, CUTTING).shard_bytes.is_finite());
    }
}
