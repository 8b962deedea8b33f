//! What a unit is doing, for a log or a console: its registers, and the way of a request through its structures.
//!
//! * [`RegisterDump`]: every register that the unit has and this driver knows, by its name, with its fields.
//! * [`Walk`]: stream table entries, context descriptors and the paging entries behind them, for one stream and one address,
//!   and where that ends.
//!
//! Neither changes anything: registers are only read, and of memory only frames that belong to the driver, whatever
//! an entry points to.

mod fields;
mod registers;
mod unit;
mod walk;
#[cfg(test)]
mod walk_tests;

pub use registers::RegisterDump;
pub use walk::{End, Place, Step, Walk};
pub(crate) use walk::{Paging, Request, Streams};
