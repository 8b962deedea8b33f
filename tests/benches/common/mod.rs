//! What benchmarks have in common: frames, callgrind, clocks and tables.

// Each benchmark uses its share.
#![allow(dead_code)]

pub mod callgrind;
pub mod clock;
pub mod host;
pub mod text;
