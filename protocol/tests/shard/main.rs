//! The shard format: what is written is read back by every path, and what is damaged or made up
//! is an error or the right bytes, never wrong ones.

mod damage;
mod files;
mod hostile;
mod reading;
mod reference;
mod roundtrip;
mod rules;
