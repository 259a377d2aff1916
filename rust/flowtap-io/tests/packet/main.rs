//! Live capture on real interfaces: each test makes its own network namespaces, and needs root.
#![cfg(test)]

mod frames;
mod life;
mod net;
mod offload;
mod rights;
mod sharing;
mod sys;
mod walk;
