//! Sabotage: wrongs that a build for judging the judge can be told to do. They exist only with the
//! feature `sabotage`; `loadtest chaos --judge` must catch every one of them.

/// Whether the process was told to do wrong in this way, by `DES_SABOTAGE=NAME`. Without the
/// feature never, and what depends on it is not compiled in.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is(_name: &str) -> bool {
    false
}

/// Whether the process was told to do wrong in this way, by `DES_SABOTAGE=NAME`.
#[cfg(feature = "sabotage")]
pub fn is(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("DES_SABOTAGE").ok()).as_deref() == Some(name)
}
