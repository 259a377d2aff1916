//! The part of flowtap that touches files, sockets and threads.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod files;
