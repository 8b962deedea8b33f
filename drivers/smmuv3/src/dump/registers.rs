//! Registers by name (section 6.3).

use super::fields::{Field, Fields};
use crate::capabilities::Capabilities;
use crate::regs::Regs;
use core::fmt;
use iommu_hal::regs::Registers;

/// A register.
struct Register {
    name: &'static str,
    offset: usize,
    /// 64 bits, else 32.
    long: bool,
    fields: &'static [Field],
}

const fn short(name: &'static str, offset: usize, fields: &'static [Field]) -> Register {
    Register { name, offset, long: false, fields }
}

const fn long(name: &'static str, offset: usize, fields: &'static [Field]) -> Register {
    Register { name, offset, long: true, fields }
}

/// Those that a unit has if it has a capability.
struct Group {
    has: fn(&Capabilities) -> bool,
    registers: &'static [Register],
}

const GROUPS: &[Group] = &[
    Group {
        has: |_| true,
        registers: &[
            short("IDR0", 0x00, IDR0),
            short("IDR1", 0x04, IDR1),
            short("IDR2", 0x08, &[("BA_VATOS", 0, 10)]),
            short("IDR3", 0x0c, IDR3),
            short("IDR4", 0x10, &[]),
            short("IDR5", 0x14, IDR5),
            short(
                "IIDR",
                0x18,
                &[("Implementer", 0, 12), ("Revision", 12, 4), ("Variant", 16, 4), ("ProductID", 20, 12)],
            ),
            short("AIDR", 0x1c, &[("ArchMinorRev", 0, 4), ("ArchMajorRev", 4, 4)]),
            short("CR0", 0x20, CR0),
            short("CR0ACK", 0x24, CR0),
            short("CR1", 0x28, CR1),
            short("CR2", 0x2c, &[("E2H", 0, 1), ("RECINVSID", 1, 1), ("PTM", 2, 1)]),
            short("STATUSR", 0x40, &[("DORMANT", 0, 1)]),
            short("GBPA", 0x44, GBPA),
            short("IRQ_CTRL", 0x50, IRQ),
            short("IRQ_CTRLACK", 0x54, IRQ),
            short("GERROR", 0x60, GERROR),
            short("GERRORN", 0x64, GERROR),
            long("STRTAB_BASE", 0x80, &[("ADDR", 6, 50), ("RA", 62, 1)]),
            short("STRTAB_BASE_CFG", 0x88, &[("LOG2SIZE", 0, 6), ("SPLIT", 6, 5), ("FMT", 16, 2)]),
            long("CMDQ_BASE", 0x90, &[("LOG2SIZE", 0, 5), ("ADDR", 5, 51), ("RA", 62, 1)]),
            short("CMDQ_PROD", 0x98, &[("WR", 0, 20)]),
            short("CMDQ_CONS", 0x9c, &[("RD", 0, 20), ("ERR", 24, 7)]),
            long("EVENTQ_BASE", 0xa0, &[("LOG2SIZE", 0, 5), ("ADDR", 5, 51), ("WA", 62, 1)]),
            short("EVENTQ_PROD", 0x1_00a8, &[("WR", 0, 20), ("OVFLG", 31, 1)]),
            short("EVENTQ_CONS", 0x1_00ac, &[("RD", 0, 20), ("OVACKFLG", 31, 1)]),
        ],
    },
    Group {
        has: Capabilities::messages,
        registers: &[
            long("GERROR_IRQ_CFG0", 0x68, &[]),
            short("GERROR_IRQ_CFG1", 0x70, &[]),
            short("GERROR_IRQ_CFG2", 0x74, MESSAGE),
            long("EVENTQ_IRQ_CFG0", 0xb0, &[]),
            short("EVENTQ_IRQ_CFG1", 0xb8, &[]),
            short("EVENTQ_IRQ_CFG2", 0xbc, MESSAGE),
        ],
    },
    Group {
        // IDR0.PRI.
        has: |caps| caps.idr()[0] >> 16 & 1 != 0,
        registers: &[
            long("PRIQ_BASE", 0xc0, &[("LOG2SIZE", 0, 5), ("ADDR", 5, 51), ("WA", 62, 1)]),
            short("PRIQ_PROD", 0x1_00c8, &[("WR", 0, 20), ("OVFLG", 31, 1)]),
            short("PRIQ_CONS", 0x1_00cc, &[("RD", 0, 20), ("OVACKFLG", 31, 1)]),
        ],
    },
    Group {
        // And IDR0.MSI.
        has: |caps| caps.idr()[0] >> 16 & 1 != 0 && caps.messages(),
        registers: &[
            long("PRIQ_IRQ_CFG0", 0xd0, &[]),
            short("PRIQ_IRQ_CFG1", 0xd8, &[]),
            short("PRIQ_IRQ_CFG2", 0xdc, MESSAGE),
        ],
    },
];

const IDR0: &[Field] = &[
    ("S2P", 0, 1),
    ("S1P", 1, 1),
    ("TTF", 2, 2),
    ("COHACC", 4, 1),
    ("BTM", 5, 1),
    ("HTTU", 6, 2),
    ("DORMHINT", 8, 1),
    ("HYP", 9, 1),
    ("ATS", 10, 1),
    ("NS1ATS", 11, 1),
    ("ASID16", 12, 1),
    ("MSI", 13, 1),
    ("SEV", 14, 1),
    ("ATOS", 15, 1),
    ("PRI", 16, 1),
    ("VMW", 17, 1),
    ("VMID16", 18, 1),
    ("CD2L", 19, 1),
    ("VATOS", 20, 1),
    ("TTENDIAN", 21, 2),
    ("ATSRECERR", 23, 1),
    ("STALL_MODEL", 24, 2),
    ("TERM_MODEL", 26, 1),
    ("ST_LEVEL", 27, 2),
    ("RME_IMPL", 30, 1),
];
const IDR1: &[Field] = &[
    ("SIDSIZE", 0, 6),
    ("SSIDSIZE", 6, 5),
    ("PRIQS", 11, 5),
    ("EVENTQS", 16, 5),
    ("CMDQS", 21, 5),
    ("ATTR_PERMS_OVR", 26, 1),
    ("ATTR_TYPES_OVR", 27, 1),
    ("REL", 28, 1),
    ("QUEUES_PRESET", 29, 1),
    ("TABLES_PRESET", 30, 1),
    ("ECMDQ", 31, 1),
];
const IDR3: &[Field] = &[
    ("HAD", 2, 1),
    ("PBHA", 3, 1),
    ("XNX", 4, 1),
    ("PPS", 5, 1),
    ("MPAM", 7, 1),
    ("FWB", 8, 1),
    ("STT", 9, 1),
    ("RIL", 10, 1),
    ("BBML", 11, 2),
    ("E0PD", 13, 1),
    ("PTWNNC", 14, 1),
    ("DPT", 15, 1),
];
const IDR5: &[Field] = &[
    ("OAS", 0, 3),
    ("GRAN4K", 4, 1),
    ("GRAN16K", 5, 1),
    ("GRAN64K", 6, 1),
    ("DS", 7, 1),
    ("D128", 8, 1),
    ("VAX", 10, 2),
    ("STALL_MAX", 16, 16),
];
const CR0: &[Field] =
    &[("SMMUEN", 0, 1), ("PRIQEN", 1, 1), ("EVENTQEN", 2, 1), ("CMDQEN", 3, 1), ("ATSCHK", 4, 1), ("VMW", 6, 3)];
const CR1: &[Field] = &[
    ("QUEUE_IC", 0, 2),
    ("QUEUE_OC", 2, 2),
    ("QUEUE_SH", 4, 2),
    ("TABLE_IC", 6, 2),
    ("TABLE_OC", 8, 2),
    ("TABLE_SH", 10, 2),
];
const GBPA: &[Field] = &[
    ("MemAttr", 0, 4),
    ("MTCFG", 4, 1),
    ("ALLOCCFG", 8, 4),
    ("SHCFG", 12, 2),
    ("PRIVCFG", 16, 2),
    ("INSTCFG", 18, 2),
    ("ABORT", 20, 1),
    ("Update", 31, 1),
];
const IRQ: &[Field] = &[("GERROR_IRQEN", 0, 1), ("PRIQ_IRQEN", 1, 1), ("EVENTQ_IRQEN", 2, 1)];
const GERROR: &[Field] = &[
    ("CMDQ_ERR", 0, 1),
    ("EVENTQ_ABT_ERR", 2, 1),
    ("PRIQ_ABT_ERR", 3, 1),
    ("MSI_CMDQ_ABT_ERR", 4, 1),
    ("MSI_EVENTQ_ABT_ERR", 5, 1),
    ("MSI_PRIQ_ABT_ERR", 6, 1),
    ("MSI_GERROR_ABT_ERR", 7, 1),
    ("SFM_ERR", 8, 1),
    ("CMDQP_ERR", 9, 1),
    ("DPT_ERR", 10, 1),
];
const MESSAGE: &[Field] = &[("MemAttr", 0, 4), ("SH", 4, 2)];

/// Every register that a unit has, one a line: name, offset, value, and the fields that are not 0. They are read while it
/// is printed; reading has no side effects. Registers that lie beyond the window are left out.
pub struct RegisterDump<'u, R> {
    regs: &'u Regs<R>,
    caps: &'u Capabilities,
}

impl<'u, R: Registers> RegisterDump<'u, R> {
    pub(crate) fn new(regs: &'u Regs<R>, caps: &'u Capabilities) -> Self {
        Self { regs, caps }
    }

    /// One line.
    fn line(&self, f: &mut fmt::Formatter<'_>, register: &Register) -> fmt::Result {
        let Register { name, offset, long, fields } = *register;
        let (offset, io) = (self.regs.in_page(offset), self.regs.io());
        let width = if long { 8 } else { 4 };
        if offset.checked_add(width).is_none_or(|end| end > io.len()) {
            return Ok(());
        }
        let value = if long { io.read64(offset) } else { io.read32(offset).into() };
        // As many digits as the register has.
        writeln!(f, "{name} [{offset:#07x}] {value:#0digits$x}{}", Fields { value, fields }, digits = 2 + 2 * width)
    }
}

impl<R: Registers> fmt::Display for RegisterDump<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = GROUPS.iter().filter(|group| (group.has)(self.caps));
        groups.flat_map(|group| group.registers).try_for_each(|register| self.line(f, register))
    }
}
