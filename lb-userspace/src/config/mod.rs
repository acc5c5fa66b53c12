//! The configuration file: what it means ([`model`]) and how it is read.

pub mod model;

pub use model::*;
