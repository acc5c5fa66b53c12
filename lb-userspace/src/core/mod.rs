//! The controller's mind: all state, no I/O, no clock.

pub mod command;
pub mod event;
pub mod explain;
pub mod input;
pub mod status;

pub use command::*;
pub use event::*;
pub use explain::*;
pub use input::*;
pub use status::*;
