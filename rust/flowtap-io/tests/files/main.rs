//! Capture files read and written: by hand-made octets, by an independent reader, and under damage.
#![cfg(test)]

mod build;
mod compressed;
mod damage;
mod hostile;
mod independent;
mod pcap;
mod pcapng;
mod writer;
