//! Layouts of the specification and nothing else: one file a structure, no behaviour beyond packing bits.
//!
//! Sections are those of the Arm System Memory Management Unit Architecture Specification, SMMU architecture version 3
//! (IHI 0070). Words are 64 bits wide and counted from 0, so that bit n of a structure stands in word n / 64.

pub mod cd;
pub mod command;
pub mod event;
pub mod registers;
pub mod ste;
