//! The token of whoever may act from the page. Only its hash is kept.

use std::fmt;

/// The fewest characters of a token that nobody guesses.
const LEAST: usize = 16;

/// What a request has to carry to change anything.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AdminToken(blake3::Hash);

impl AdminToken {
    /// The token of the configuration.
    ///
    /// # Errors
    /// When it is short, or could not stand in a header; the message does not hold it.
    pub(super) fn new(token: &str) -> Result<Self, String> {
        let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || token.len() < LEAST {
            return Err(format!(
                "it must be at least {LEAST} letters, digits or signs of ASCII, without spaces; \
                 `openssl rand -hex 24` makes one"
            ));
        }
        Ok(Self(blake3::hash(token.as_bytes())))
    }

    /// Whether this is the token. How long that takes tells nothing about it: hashes are compared,
    /// and those in constant time.
    pub(crate) fn matches(&self, token: &str) -> bool {
        self.0 == blake3::hash(token.as_bytes())
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
