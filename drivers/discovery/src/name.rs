//! Paths of ACPI objects in tables.

use crate::bytes::Bytes;
use crate::fallible::OutOfMemory;
use alloc::string::String;

/// What is wrong with a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameError {
    /// It does not end where it must.
    Unterminated,
    /// It has no characters.
    Empty,
    /// It has one that no path has.
    Character { offset: usize, byte: u8 },
    /// No memory for it.
    OutOfMemory,
}

/// The path that `field` begins with, up to the zero at its end.
pub(crate) fn read(field: Bytes<'_>) -> Result<String, NameError> {
    let bytes = field.as_slice();
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(NameError::Unterminated)?;
    let name = bytes.get(..end).unwrap_or_default();
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(at) = name.iter().position(|byte| !is_of_a_path(*byte)) {
        let byte = name.get(at).copied().unwrap_or_default();
        return Err(NameError::Character { offset: field.start().saturating_add(at), byte });
    }
    // What a path has is ASCII.
    copied(core::str::from_utf8(name).unwrap_or_default()).map_err(|OutOfMemory| NameError::OutOfMemory)
}

/// A copy of `text`.
pub(crate) fn copied(text: &str) -> Result<String, OutOfMemory> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).map_err(|_| OutOfMemory)?;
    copy.push_str(text);
    Ok(copy)
}

/// Whether ACPI object paths have this character (ACPI 5.3): segments of capital letters, digits and underscores, the root,
/// parents, and the separator. Small letters are no part of it, but some firmware writes them.
const fn is_of_a_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'\\' | b'^' | b'.')
}
