//! The part of flowtap that looks at packets: decode, match, copy, encapsulate, account.
//!
//! This crate has no unsafe code, does no I/O, reads no clock and starts no thread, so that it can be
//! embedded anywhere and tested exhaustively. Time is always an argument.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod bpf;
pub mod counters;
pub mod criteria;
pub mod decode;
pub mod duplicates;
pub mod encap;
pub mod engine;
pub mod fragments;
pub mod frame;
pub mod local;
pub mod offload;
pub mod own;
pub mod packet;
pub mod segment;
pub mod table;
pub mod wire;
