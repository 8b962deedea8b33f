//! PASID directory and PASID table (sections 9.5, 9.6).

use super::context::{Context, domain_reserved};
use super::view::{Structure, fetch};
use super::{FaultCode, Refused, View, at, beyond};
use crate::vtd::Config;

/// A PASID table entry, present and checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasidEntry {
    /// Its words.
    pub words: [u64; 8],
    /// Its number in the table: RID_PASID for requests without PASID.
    pub pasid: u32,
    /// FPD here, in the directory or in the context entry.
    pub silent: bool,
}

impl PasidEntry {
    /// PGTT.
    pub const fn kind(&self) -> u64 {
        self.words[0] >> 6 & 7
    }

    /// Domain id.
    pub const fn domain(&self) -> u16 {
        self.words[1] as u16
    }

    /// AW.
    pub(super) const fn width(&self) -> u64 {
        self.words[0] >> 2 & 7
    }

    /// Bit `bit` of the 512.
    pub(super) const fn bit(&self, bit: usize) -> bool {
        self.words[bit / 64] >> (bit % 64) & 1 != 0
    }
}

/// Reads PASID directory entry and PASID table entry for a PASID that [`admit`](super::context::admit) gave.
pub(in crate::vtd) fn pasid_entry(
    view: &mut dyn View,
    config: &Config,
    context: &Context,
    pasid: u32,
) -> Result<PasidEntry, Refused> {
    let mut silent = context.silent();
    let [directory] = fetch(view, Structure::Directory, at(context.words[0], u64::from(pasid >> 6) * 8))
        .ok_or(Refused { code: FaultCode::DIRECTORY_ACCESS, silent })?;
    silent |= directory & 2 != 0;
    if directory & 1 == 0 {
        return Err(Refused { code: FaultCode::DIRECTORY_NOT_PRESENT, silent });
    }
    if directory & (0xffc | beyond(config.haw)) != 0 {
        return Err(Refused { code: FaultCode::DIRECTORY_RESERVED, silent });
    }
    let words: [u64; 8] = fetch(view, Structure::PasidTable, at(directory, u64::from(pasid & 0x3f) * 64))
        .ok_or(Refused { code: FaultCode::PASID_ACCESS, silent })?;
    silent |= words[0] & 2 != 0;
    let entry = PasidEntry { words, pasid, silent };
    let code = if words[0] & 1 == 0 {
        FaultCode::PASID_NOT_PRESENT
    } else if words.iter().zip(reserved(config)).any(|(word, reserved)| word & reserved != 0) {
        FaultCode::PASID_RESERVED
    } else if !is_valid(config, &entry) {
        FaultCode::PASID_INVALID
    } else {
        return Ok(entry);
    };
    Err(Refused { code, silent })
}

fn reserved(config: &Config) -> [u64; 8] {
    let high = beyond(config.haw);
    // EMT, PWT and PCD are gone since 3.4.
    let mut reserved =
        [0xc20 | high, 0x7f << 16 | 0x1f << 27 | domain_reserved(config), 0xf02 | high, !0, !0, !0, !0, !0];
    // What a unit without these capabilities leaves reserved. AW without SSTS is not among them: up to 4.0 an entry had
    // to name the largest width there too, since 4.1 it must be zero, and drivers have to serve both.
    let address = !0xfff;
    for (ecap, word, bits) in [
        // SSTS: SSPTPTR, SSADE. SSADS: SSADE.
        (46, 0, address | 1 << 9),
        (45, 0, 1 << 9),
        // SMPWCS: PWSNP. SC: PGSNP. MTS: CD, EMTE, PAT.
        (48, 1, 1 << 23),
        (7, 1, 1 << 24),
        (25, 1, 3 << 25 | 0xffff_ffff << 32),
        // FSTS: FSPM, WPE, FSPTPTR. SRS: SRE. EAFS: EAFE.
        (47, 2, address | 7 << 2),
        (31, 2, 1),
        (34, 2, 1 << 7),
    ] {
        reserved[word] |= if config.ecap_bit(ecap) { 0 } else { bits };
    }
    if config.ecap_bit(30) {
        // ERS: SSEE and ERE.
        reserved[0] &= !(1 << 5);
        reserved[2] &= !2;
    }
    reserved
}

fn is_valid(config: &Config, entry: &PasidEntry) -> bool {
    let mode = entry.words[2] >> 2 & 3;
    let first = mode == 0 || mode == 1 && config.cap_bit(60);
    let second = config.has_width(entry.width());
    match entry.kind() {
        1 => config.ecap_bit(47) && first,
        2 => config.ecap_bit(46) && second,
        // NEST; FSPTPTR is an address of the second stage.
        3 => config.ecap_bit(26) && first && second && entry.words[2] >> config.input_bits(entry.width()) == 0,
        // Up to 4.0 AW had to name the largest width in pass-through; drivers have to serve that too.
        4 => config.ecap_bit(6) && (second || !config.ecap_bit(46)),
        _ => false,
    }
}
