//! What an address space ought to be, operation by operation: a flat map of addresses to memory, written from the
//! specification, beside the real thing.
//!
//! * [`op`]: operations, and how bytes become some.
//! * [`layout`]: which addresses and memory there are.
//! * [`flat`]: the map, and what else an address space ought to hold.
//! * [`world`]: both together.
//! * [`check`]: how they are compared.
//! * `areas`, `options`, `domains`, `devices`, `accesses`, `bytes`, `owners`: what ought to come of each operation.
//! * [`run`](mod@run): sequences of operations, and how one that fails is made smaller.

mod accesses;
mod areas;
mod bytes;
pub mod check;
mod devices;
mod domains;
pub mod flat;
mod holder;
pub mod layout;
pub mod op;
mod options;
mod owners;
pub mod run;
pub mod world;

pub use layout::Layout;
pub use op::{Bytes, Op};
pub use run::{Outcome, run, shrink};
pub use world::World;
