//! The lists of capabilities: standard ones in the first 256 bytes, extended ones behind.

use super::{ConfigAccess, PciError, SPACE_LEN};

/// Where the extended ones begin.
pub(super) const EXTENDED_START: u16 = 0x100;
/// The lowest offset of a standard one.
const STANDARD_START: u16 = 0x40;
/// Command in bits 15:0, status in 31:16.
const STATUS_AT: u16 = 4;
/// Status bit 4: there is a list.
const HAS_LIST: u32 = 1 << (16 + 4);
const POINTER_AT: u16 = 0x34;

/// Offsets that a list was at: a bit each of the 1024 words of configuration space.
struct Seen([u64; SPACE_LEN as usize / 4 / 64]);

impl Seen {
    const fn new() -> Self {
        Self([0; SPACE_LEN as usize / 4 / 64])
    }

    /// Notes `offset`, a multiple of four; an error where it was noted before or lies beyond configuration space.
    fn add(&mut self, offset: u16) -> Result<(), PciError> {
        let (word, bit) = (offset / 4 / 64, 1 << (offset / 4 % 64));
        let word = self.0.get_mut(usize::from(word)).ok_or(PciError::OutOfPlace { offset })?;
        if *word & bit != 0 {
            return Err(PciError::Loop { offset });
        }
        *word |= bit;
        Ok(())
    }
}

/// Hands each standard capability to `each`: its offset and its first four bytes, of which the lowest is its id.
pub(super) fn standard(
    config: &dyn ConfigAccess,
    each: &mut dyn FnMut(u16, u32) -> Result<(), PciError>,
) -> Result<(), PciError> {
    if config.read32(STATUS_AT) & HAS_LIST == 0 {
        return Ok(());
    }
    let mut seen = Seen::new();
    // The two lowest bits of each pointer are reserved.
    let mut at = (config.read32(POINTER_AT) & 0xfc) as u16;
    while at != 0 {
        if at < STANDARD_START {
            return Err(PciError::OutOfPlace { offset: at });
        }
        seen.add(at)?;
        let header = config.read32(at);
        if header == u32::MAX {
            return Err(PciError::Absent { offset: at });
        }
        each(at, header)?;
        at = (header >> 8 & 0xfc) as u16;
    }
    Ok(())
}

/// Hands each extended capability to `each`: its offset and its header, of which bits 15:0 are its id.
pub(super) fn extended(
    config: &dyn ConfigAccess,
    each: &mut dyn FnMut(u16, u32) -> Result<(), PciError>,
) -> Result<(), PciError> {
    let mut seen = Seen::new();
    let mut at = EXTENDED_START;
    while at != 0 {
        if at < EXTENDED_START {
            return Err(PciError::OutOfPlace { offset: at });
        }
        seen.add(at)?;
        let header = config.read32(at);
        match header {
            // So a function says that it has none.
            0 | u32::MAX if at == EXTENDED_START => return Ok(()),
            u32::MAX => return Err(PciError::Absent { offset: at }),
            // Id 0: a capability that is not there, with the list going on behind it.
            _ => each(at, header)?,
        }
        at = (header >> 20 & 0xffc) as u16;
    }
    Ok(())
}
