//! Units that report what must not be used, by SMMU_IIDR.

use crate::spec::registers::IIDR;
use tock_registers::LocalRegisterCopy;

/// What is left off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Erratum {
    /// CMD_SYNC does not complete by an event, whatever IDR0.SEV says.
    NoEvents,
    /// Both stages do not work on top of each other, whatever IDR0.S1P and S2P say.
    NoNesting,
}

/// A range of revisions of one product, first and last, each variant and revision: (1, 0) is r1p0.
struct Row {
    implementer: u16,
    product: u16,
    first: (u8, u8),
    last: (u8, u8),
    erratum: Erratum,
}

/// Arm, as JEP106 has it.
const ARM: u16 = 0x43b;
const MMU_600: u16 = 0x483;
const MMU_700: u16 = 0x487;
/// The last of all revisions.
const LAST: u8 = 0xf;

/// By the makers' notices: 1076982, 1209401, 2268618.
const ROWS: [Row; 3] = [
    Row { implementer: ARM, product: MMU_600, first: (0, 0), last: (0, 2), erratum: Erratum::NoEvents },
    Row { implementer: ARM, product: MMU_600, first: (0, 0), last: (1, LAST), erratum: Erratum::NoNesting },
    Row { implementer: ARM, product: MMU_700, first: (0, 0), last: (1, 0), erratum: Erratum::NoNesting },
];

/// Whether a unit with this value of IIDR has `erratum`.
pub fn has(iidr: u32, erratum: Erratum) -> bool {
    let iidr = LocalRegisterCopy::<u32, IIDR::Register>::new(iidr);
    let (implementer, product) = (iidr.read(IIDR::IMPLEMENTER) as u16, iidr.read(IIDR::PRODUCT) as u16);
    let revision = (iidr.read(IIDR::VARIANT) as u8, iidr.read(IIDR::REVISION) as u8);
    ROWS.iter().any(|row| {
        let same = (row.implementer, row.product, row.erratum) == (implementer, product, erratum);
        same && (row.first..=row.last).contains(&revision)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IIDR of a product of Arm: ProductID 31:20, Variant 19:16, Revision 15:12, Implementer 11:0.
    fn arm(product: u32, variant: u32, revision: u32) -> u32 {
        product << 20 | variant << 16 | revision << 12 | 0x43b
    }

    #[test]
    fn rows_hold_for_their_revisions_alone() {
        let (events, nesting) = (Erratum::NoEvents, Erratum::NoNesting);
        let found = |iidr| [events, nesting].map(|erratum| has(iidr, erratum));
        let expected = [
            (arm(0x483, 0, 0), [true, true]),
            (arm(0x483, 0, 2), [true, true]),
            (arm(0x483, 0, 3), [false, true]),
            (arm(0x483, 1, 0), [false, true]),
            (arm(0x483, 1, 15), [false, true]),
            (arm(0x483, 2, 0), [false, false]),
            (arm(0x487, 0, 0), [false, true]),
            (arm(0x487, 0, 9), [false, true]),
            (arm(0x487, 1, 0), [false, true]),
            (arm(0x487, 1, 1), [false, false]),
            (arm(0x48a, 0, 0), [false, false]),
            (arm(0x498, 0, 0), [false, false]),
            (arm(0x483, 0, 0) ^ 1, [false, false]),
            (0, [false, false]),
        ];
        for (iidr, expected) in expected {
            assert_eq!(found(iidr), expected, "{iidr:#x}");
        }
    }
}
