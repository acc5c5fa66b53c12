//! Weir's lab.

pub mod bench;
pub mod program;
