//! Growth of vectors that can fail, so that no table, however large, aborts its reader.

use alloc::vec::Vec;
use core::fmt;

/// No memory for the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// Appends `item`.
pub(crate) fn try_push<T>(vec: &mut Vec<T>, item: T) -> Result<(), OutOfMemory> {
    vec.try_reserve(1).map_err(|_| OutOfMemory)?;
    vec.push(item);
    Ok(())
}

/// A vector of all of `items`.
pub(crate) fn try_collect<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    for item in items {
        try_push(&mut vec, item)?;
    }
    Ok(vec)
}
