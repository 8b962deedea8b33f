//! Registers by name (section 11.4).

use super::fields::{Field, Fields};
use crate::capabilities::Capabilities;
use crate::spec::registers::{FRCD_LEN, IOTLB_LEN};
use core::fmt;
use iommu_hal::regs::Registers;

/// A register, or a row of alike ones.
struct Register {
    name: &'static str,
    offset: usize,
    /// 64 bits, else 32.
    long: bool,
    /// How many, and how far apart.
    count: usize,
    stride: usize,
    fields: &'static [Field],
}

const fn short(name: &'static str, offset: usize, fields: &'static [Field]) -> Register {
    Register { name, offset, long: false, count: 1, stride: 4, fields }
}

const fn long(name: &'static str, offset: usize, fields: &'static [Field]) -> Register {
    Register { name, offset, long: true, count: 1, stride: 8, fields }
}

const fn row(name: &'static str, offset: usize, count: usize, stride: usize) -> Register {
    Register { name, offset, long: true, count, stride, fields: &[] }
}

/// Those that a unit has if it has a capability. GCMD, which reads as zero, is none of them.
struct Group {
    has: fn(&Capabilities) -> bool,
    registers: &'static [Register],
}

const EVENT: &[Field] = &[("IM", 31, 1), ("IP", 30, 1)];

const GROUPS: &[Group] = &[
    Group {
        has: |_| true,
        registers: &[
            short("VER", 0x00, &[("MAX", 4, 4), ("MIN", 0, 4)]),
            long("CAP", 0x08, CAP),
            long("ECAP", 0x10, ECAP),
            short("GSTS", 0x1c, GSTS),
            long("RTADDR", 0x20, &[("RTA", 12, 52), ("TTM", 10, 2), ("SSIRWE", 7, 1)]),
            short("FSTS", 0x34, FSTS),
            short("FECTL", 0x38, EVENT),
            short("FEDATA", 0x3c, &[]),
            short("FEADDR", 0x40, &[]),
            short("FEUADDR", 0x44, &[]),
        ],
    },
    Group { has: Capabilities::register_invalidation, registers: &[long("CCMD", 0x28, CCMD)] },
    Group {
        has: |caps| caps.cap() >> 3 & 1 != 0,
        registers: &[long("AFLOG", 0x58, &[("FLA", 12, 52), ("FLS", 9, 3)])],
    },
    Group { has: Capabilities::protected_regions, registers: &[short("PMEN", 0x64, &[("EPM", 31, 1), ("PRS", 0, 1)])] },
    Group {
        has: |caps| caps.cap() >> 5 & 1 != 0,
        registers: &[short("PLMBASE", 0x68, &[]), short("PLMLIMIT", 0x6c, &[])],
    },
    Group {
        has: |caps| caps.cap() >> 6 & 1 != 0,
        registers: &[long("PHMBASE", 0x70, &[]), long("PHMLIMIT", 0x78, &[])],
    },
    Group {
        has: Capabilities::queued_invalidation,
        registers: &[
            long("IQH", 0x80, &[("QH", 4, 15)]),
            long("IQT", 0x88, &[("QT", 4, 15)]),
            long("IQA", 0x90, &[("IQA", 12, 52), ("DW", 11, 1), ("QS", 0, 3)]),
            short("ICS", 0x9c, &[("IWC", 0, 1)]),
            short("IECTL", 0xa0, EVENT),
            short("IEDATA", 0xa4, &[]),
            short("IEADDR", 0xa8, &[]),
            short("IEUADDR", 0xac, &[]),
            long("IQERCD", 0xb0, &[("IQEI", 0, 4), ("ITESID", 32, 16), ("ICESID", 48, 16)]),
        ],
    },
    Group {
        has: Capabilities::interrupt_remapping,
        registers: &[long("IRTA", 0xb8, &[("IRTA", 12, 52), ("EIME", 11, 1), ("S", 0, 4)])],
    },
    Group {
        has: Capabilities::page_requests,
        registers: &[
            long("PQH", 0xc0, &[("PQH", 5, 14)]),
            long("PQT", 0xc8, &[("PQT", 5, 14)]),
            long("PQA", 0xd0, &[("PQA", 12, 52), ("PQS", 0, 3)]),
            short("PRS", 0xdc, &[("PPR", 0, 1), ("PRO", 1, 1)]),
            short("PECTL", 0xe0, EVENT),
            short("PEDATA", 0xe4, &[]),
            short("PEADDR", 0xe8, &[]),
            short("PEUADDR", 0xec, &[]),
        ],
    },
    Group {
        has: |caps| caps.ecap() >> 25 & 1 != 0,
        registers: &[
            long("MTRRCAP", 0x100, &[("VCNT", 0, 8), ("FIX", 8, 1), ("WC", 10, 1)]),
            long("MTRRDEF", 0x108, &[("TYPE", 0, 8), ("FE", 10, 1), ("E", 11, 1)]),
            row("MTRR_FIX", 0x120, 11, 8),
            row("MTRR_PHYSBASE", 0x180, 10, 16),
            row("MTRR_PHYSMASK", 0x188, 10, 16),
        ],
    },
    Group {
        has: |caps| caps.ecap() >> 51 & 1 != 0,
        registers: &[
            long("PERFCAP", 0x300, &[]),
            short("PERFCFGOFF", 0x310, &[]),
            short("PERFOVFOFF", 0x318, &[]),
            short("PERFCNTROFF", 0x31c, &[]),
            short("PERFINTRSTS", 0x324, &[("PIS", 0, 1)]),
            short("PERFINTRCTL", 0x328, EVENT),
        ],
    },
    Group {
        has: |caps| caps.cap() >> 61 & 1 != 0,
        registers: &[long("ECRSP", 0x410, &[("IP", 0, 1), ("SC", 1, 7)]), row("ECCAP", 0x430, 4, 8)],
    },
    Group { has: |caps| caps.ecap() >> 44 & 1 != 0, registers: &[long("VCCAP", 0xe30, &[("PAS", 0, 1)])] },
];

const CAP: &[Field] = &[
    ("ND", 0, 3),
    ("AFL", 3, 1),
    ("RWBF", 4, 1),
    ("PLMR", 5, 1),
    ("PHMR", 6, 1),
    ("CM", 7, 1),
    ("SAGAW", 8, 5),
    ("MGAW", 16, 6),
    ("ZLR", 22, 1),
    ("FRO", 24, 10),
    ("SSLPS", 34, 4),
    ("PSI", 39, 1),
    ("NFR", 40, 8),
    ("MAMV", 48, 6),
    ("DWD", 54, 1),
    ("DRD", 55, 1),
    ("FS1GP", 56, 1),
    ("PI", 59, 1),
    ("FS5LP", 60, 1),
    ("ECMDS", 61, 1),
    ("ESIRTPS", 62, 1),
    ("ESRTPS", 63, 1),
];

const ECAP: &[Field] = &[
    ("C", 0, 1),
    ("QI", 1, 1),
    ("DT", 2, 1),
    ("IR", 3, 1),
    ("EIM", 4, 1),
    ("PT", 6, 1),
    ("SC", 7, 1),
    ("IRO", 8, 10),
    ("MHMV", 20, 4),
    ("MTS", 25, 1),
    ("NEST", 26, 1),
    ("PRS", 29, 1),
    ("ERS", 30, 1),
    ("SRS", 31, 1),
    ("NWFS", 33, 1),
    ("EAFS", 34, 1),
    ("PSS", 35, 5),
    ("PASID", 40, 1),
    ("DIT", 41, 1),
    ("PDS", 42, 1),
    ("SMTS", 43, 1),
    ("VCS", 44, 1),
    ("SSADS", 45, 1),
    ("SSTS", 46, 1),
    ("FSTS", 47, 1),
    ("SMPWCS", 48, 1),
    ("RPS", 49, 1),
    ("TDXCS", 50, 1),
    ("PMS", 51, 1),
    ("ADMS", 52, 1),
    ("RPRIVS", 53, 1),
    ("HPTS", 55, 1),
    ("PTRS", 56, 1),
    ("SSIRWS", 57, 1),
    ("SMS", 58, 1),
];

const GSTS: &[Field] = &[
    ("TES", 31, 1),
    ("RTPS", 30, 1),
    ("FLS", 29, 1),
    ("AFLS", 28, 1),
    ("WBFS", 27, 1),
    ("QIES", 26, 1),
    ("IRES", 25, 1),
    ("IRTPS", 24, 1),
    ("CFIS", 23, 1),
];

const FSTS: &[Field] = &[
    ("PFO", 0, 1),
    ("PPF", 1, 1),
    ("AFO", 2, 1),
    ("APF", 3, 1),
    ("IQE", 4, 1),
    ("ICE", 5, 1),
    ("ITE", 6, 1),
    ("PRO", 7, 1),
    ("FRI", 8, 8),
];

const CCMD: &[Field] =
    &[("ICC", 63, 1), ("CIRG", 61, 2), ("CAIG", 59, 2), ("FM", 32, 2), ("SID", 16, 16), ("DID", 0, 16)];

const IOTLB: &[Field] =
    &[("IVT", 63, 1), ("IIRG", 60, 2), ("IAIG", 57, 2), ("DR", 49, 1), ("DW", 48, 1), ("DID", 32, 16)];

/// The upper half of a fault record.
const FRCD: &[Field] = &[
    ("F", 63, 1),
    ("T1", 62, 1),
    ("AT", 60, 2),
    ("PASID", 40, 20),
    ("FR", 32, 8),
    ("PP", 31, 1),
    ("EXE", 30, 1),
    ("PRIV", 29, 1),
    ("T2", 28, 1),
    ("SID", 0, 16),
];

/// Every register that a unit has, one a line: name, offset, value, and the fields that are not 0. They are read while it
/// is printed; reading has no side effects. Registers that lie beyond the window are left out.
pub struct RegisterDump<'u, R> {
    io: &'u R,
    caps: &'u Capabilities,
}

impl<'u, R: Registers> RegisterDump<'u, R> {
    pub(crate) fn new(io: &'u R, caps: &'u Capabilities) -> Self {
        Self { io, caps }
    }

    /// One line.
    fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        (name, index): (&str, Option<usize>),
        (offset, long): (usize, bool),
        fields: &[Field],
    ) -> fmt::Result {
        let width = if long { 8 } else { 4 };
        if offset.checked_add(width).is_none_or(|end| end > self.io.len()) {
            return Ok(());
        }
        write!(f, "{name}")?;
        if let Some(index) = index {
            write!(f, "{index}")?;
        }
        let value = if long { self.io.read64(offset) } else { self.io.read32(offset).into() };
        // As many digits as the register has.
        writeln!(f, " [{offset:#05x}] {value:#0digits$x}{}", Fields { value, fields }, digits = 2 + 2 * width)
    }
}

impl<R: Registers> fmt::Display for RegisterDump<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in GROUPS.iter().filter(|group| (group.has)(self.caps)) {
            for register in group.registers {
                for index in 0..register.count {
                    let number = (register.count > 1).then_some(index);
                    let place = (register.offset + index * register.stride, register.long);
                    self.line(f, (register.name, number), place, register.fields)?;
                }
            }
        }
        if self.caps.register_invalidation() {
            self.line(
                f,
                ("IVA", None),
                (self.caps.iotlb_offset(), true),
                &[("ADDR", 12, 52), ("IH", 6, 1), ("AM", 0, 6)],
            )?;
            self.line(f, ("IOTLB", None), (self.caps.iotlb_offset() + IOTLB_LEN / 2, true), IOTLB)?;
        }
        for index in 0..self.caps.fault_records() {
            let at = self.caps.fault_offset() + index * FRCD_LEN;
            self.line(f, ("FRCD_LO", Some(index)), (at, true), &[("FI", 12, 52)])?;
            self.line(f, ("FRCD_HI", Some(index)), (at + FRCD_LEN / 2, true), FRCD)?;
        }
        Ok(())
    }
}
