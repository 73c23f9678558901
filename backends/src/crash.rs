//! Crash points: named places in the code at which a process can be told to end, or to stand
//! still, and files that are poison to who reads them. They exist only with the feature
//! `failpoints`, for `loadtest chaos`.

/// Ends or stops the process when `DES_FAILPOINT`, as `NAME:HIT:abort` or `NAME:HIT:stop`, says so
/// of the hit (from 1) of the point with this name. Without the feature it does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn point(_name: &str) {}

/// Ends the process when `DES_POISON` is set and the file's name ends in `.dies`, and fails as a
/// broken disk does when it ends in `.broken`. Without the feature it does nothing.
///
/// # Errors
/// EIO, for such a file.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn reading(_path: &std::path::Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use armed::{point, reading};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    struct Armed {
        name: String,
        hit: u64,
        stops: bool,
        hits: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn from_environment() -> Option<Armed> {
        let text = std::env::var("DES_FAILPOINT").ok()?;
        let mut parts = text.splitn(3, ':');
        let (name, hit, action) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Armed {
            name: name.to_owned(),
            hit: hit.parse().ok()?,
            stops: action == "stop",
            hits: AtomicU64::new(0),
        })
    }

    /// A named place at which the process may end or stop.
    pub fn point(name: &str) {
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.name != name || armed.hits.fetch_add(1, Ordering::Relaxed) + 1 != armed.hit {
            return;
        }
        tracing::warn!(name, "crash point");
        if armed.stops {
            let _stopped_and_continued = kill_process(getpid(), Signal::STOP);
        } else {
            std::process::abort();
        }
    }

    /// A file is about to be read, which may be poison.
    ///
    /// # Errors
    /// EIO, for a file that cannot be read for the machine's reasons.
    pub fn reading(path: &std::path::Path) -> std::io::Result<()> {
        static POISON: OnceLock<bool> = OnceLock::new();
        if !POISON.get_or_init(|| std::env::var_os("DES_POISON").is_some()) {
            return Ok(());
        }
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("dies") => {
                tracing::warn!(path = %path.display(), "poison");
                std::process::abort();
            }
            Some("broken") => Err(Errno::IO.into()),
            _ => Ok(()),
        }
    }
}
