//! Weir's lab.

pub mod program;
