//! VRRP: which balancer has the virtual addresses (RFC 9568, and RFC 3768 for older peers).
//!
//! [`packet`] reads and writes adverts, [`fsm`] decides, both without I/O.

pub mod auth;
pub mod fsm;
pub mod packet;
