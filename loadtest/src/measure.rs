//! Measuring: processes as the kernel saw them, several runs as one figure, and what a line of the
//! benchmark table holds.

pub(crate) mod child;
pub(crate) mod line;
pub(crate) mod machine;
pub(crate) mod spread;
