//! The part of flowtap that touches files, sockets and threads.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod broker;
pub mod export;
pub mod files;
pub mod local;
pub mod packet;
pub mod prefilter;
pub mod receive;
pub mod replay;
pub mod rights;
pub mod swap;
pub mod tap;
pub mod traffic;
pub mod usage;
