//! Export formats, one file each.

pub mod flowtap;
