//! The control socket: HTTP/1.1 with JSON on a Unix socket.

pub mod request;

pub use request::*;
