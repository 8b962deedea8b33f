//! Fields of registers and of entries by name: enough to print a value so that it can be read.

use core::fmt;

/// A field: its name in the specification, its lowest bit, its width in bits.
pub(super) type Field = (&'static str, u8, u8);

/// A value's fields.
pub(super) struct Fields<'f> {
    pub(super) value: u64,
    pub(super) fields: &'f [Field],
}

impl Fields<'_> {
    fn get(&self, (_, low, width): Field) -> u64 {
        let mask = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
        self.value >> low & mask
    }
}

/// Every field that is not 0: of one bit its name alone, of several with the value.
impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for field in self.fields {
            let (name, _, width) = *field;
            match (self.get(*field), width) {
                (0, _) => {}
                (_, 1) => write!(f, " {name}")?,
                (value, _) => write!(f, " {name}={value:#x}")?,
            }
        }
        Ok(())
    }
}
