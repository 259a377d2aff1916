//! The kernel's filter against an oracle over the decoder: programs that the kernel tests, and real packet sockets.
#![cfg(test)]

mod cost;
mod edges;
mod fallback;
mod frames;
mod judged;
mod oracle;
mod socket;
mod steps;
mod sys;
mod wire;
