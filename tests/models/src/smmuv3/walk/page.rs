//! Armv8 translation tables of 64-bit descriptors, any granule, addresses of 48 bits.

use super::{FaultCode, Granule, Policy, Refused};

/// Tables of one stage, or of one half of the addresses of stage 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    /// The top.
    pub(super) table: u64,
    /// The level of the top table.
    pub(super) level: u8,
    pub(super) input_bits: u32,
    pub(super) output_bits: u32,
    pub(super) granule: Granule,
    /// HAD: permissions in table descriptors are ignored.
    pub(super) flat: bool,
    /// TBI: the highest byte of addresses is ignored.
    pub(super) tagged: bool,
}

/// Hardware updates of a stage, and what becomes of leaves without access flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// HA: access flags are set.
    pub(super) accessed: bool,
    /// HD: leaves with DBM are made dirty.
    pub(super) dirty: bool,
    /// AFFD: without HA, access flags are not looked at.
    pub(super) ignored: bool,
    /// Walks are coherent and write-back cacheable, which updates need.
    pub(super) snooped: bool,
}

/// Stage 1, as a CD describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage1 {
    /// TTB0; `None` with EPD0.
    pub(super) low: Option<Tables>,
    /// TTB1; `None` with EPD1.
    pub(super) high: Option<Tables>,
    pub(super) asid: u16,
    pub(super) el2: bool,
    /// Requests are privileged.
    pub(super) privileged: bool,
    pub(super) flags: Flags,
    pub(super) policy: Policy,
}

/// Stage 2, as an STE describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage2 {
    pub(super) tables: Tables,
    pub(super) vmid: u16,
    pub(super) flags: Flags,
    /// S2PTW: no CD and no table of stage 1 in device memory.
    pub(super) protected: bool,
    /// S2FWB: memory types of leaves are encoded otherwise.
    pub(super) forced: bool,
    pub(super) policy: Policy,
}

/// Where a walk goes on: what a walk cache keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Cursor {
    /// Level of the table.
    pub(in crate::smmuv3) level: u8,
    /// The table: an input of stage 2 in nested translation.
    pub(in crate::smmuv3) table: u64,
    /// What table descriptors on the way forbid: bits 62:59.
    pub(in crate::smmuv3) forbidden: u64,
}

/// Where stage 2 has put 4 KiB of a table of stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Host {
    pub(in crate::smmuv3) phys: u64,
    /// Descriptors there may be written.
    pub(in crate::smmuv3) write: bool,
}

/// A leaf that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) descriptor: u64,
    /// Where the descriptor stands: an input of stage 2 in nested translation.
    pub(super) at: u64,
    /// And in memory.
    pub(super) phys: u64,
    /// Its number in its table.
    pub(super) index: u64,
    /// Where it leads.
    pub(super) output: u64,
    pub(super) level: u8,
    pub(super) granule: Granule,
    pub(super) forbidden: u64,
}

/// AF.
pub(super) const ACCESSED: u64 = 1 << 10;
/// AP[2] of stage 1, S2AP[1] of stage 2.
pub(super) const WRITE: u64 = 1 << 7;
/// DBM.
pub(super) const MODIFIER: u64 = 1 << 51;
/// The contiguous bit.
pub(super) const CONTIGUOUS: u64 = 1 << 52;
/// Bits 47:12.
pub(super) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Bits 50:48 and, in leaves, of addresses beyond 48 bits.
const BEYOND: u64 = 7 << 48;

impl Leaf {
    /// log2 of what one descriptor maps.
    pub(super) const fn bits(&self) -> u32 {
        self.granule.shift(self.level)
    }

    /// nT: may not be kept (BBML 1 and 2).
    pub(super) const fn is_unkept(&self) -> bool {
        self.level < 3 && self.descriptor >> 16 & 1 != 0
    }

    pub(super) const fn is_contiguous(&self) -> bool {
        self.descriptor & CONTIGUOUS != 0
    }

    /// log2 of the descriptors in its group.
    pub(super) const fn group(&self) -> u32 {
        self.granule.group(self.level)
    }
}

impl Stage1 {
    /// The tables for `iova`, and the address that is looked up in them; `None` where there are none.
    pub(super) fn half(&self, iova: u64) -> Option<(Tables, u64)> {
        // TBI is that of the half which bit 55 chooses.
        let extended = ((iova << 8) as i64 >> 8) as u64;
        let input = |half: &Tables| if half.tagged { extended } else { iova };
        let low = self.low.filter(|half| input(half) >> half.input_bits == 0);
        let high = self.high.filter(|half| input(half) >> half.input_bits == u64::MAX >> half.input_bits);
        low.or(high).map(|half| (half, input(&half)))
    }
}

/// What a walk asks for at each level.
pub(super) trait Steps {
    /// The descriptor at `at` in a table of `level`, and where it is in memory.
    fn read(&mut self, level: u8, at: u64) -> Result<(u64, u64), Refused>;

    /// A descriptor of `level` leads on.
    fn lead(&mut self, level: u8, next: Cursor);

    fn refuse(&self, code: FaultCode) -> Refused;
}

/// Walks from `start`, or from the top, down to the leaf for `input`.
pub(super) fn walk(tables: &Tables, start: Option<Cursor>, input: u64, steps: &mut dyn Steps) -> Result<Leaf, Refused> {
    let granule = tables.granule;
    let mut cursor = start.unwrap_or(Cursor { level: tables.level, table: tables.table, forbidden: 0 });
    loop {
        let Cursor { level, table, forbidden } = cursor;
        // The top table may hold fewer entries, or be several side by side.
        let inside = if level == tables.level { tables.input_bits } else { granule.shift(level) + granule.stride() };
        let index = (input & u64::MAX >> (64 - inside)) >> granule.shift(level);
        let at = table + index * 8;
        let (descriptor, phys) = steps.read(level, at)?;
        let is_table = level < 3 && descriptor & 3 == 3;
        let is_leaf = granule.has_leaves(level) && descriptor & 3 == if level == 3 { 3 } else { 1 };
        if !is_table && !is_leaf {
            return Err(steps.refuse(FaultCode::F_TRANSLATION));
        }
        let address = descriptor & ADDRESS;
        // Pages and tables have no address bits below their size.
        let low = if level == 3 || is_table { (1 << granule.bits()) - 1 } else { 0 };
        if descriptor & BEYOND != 0 || address & low != 0 || address >> tables.output_bits.min(48) != 0 {
            return Err(steps.refuse(FaultCode::F_ADDR_SIZE));
        }
        if is_leaf {
            let output = address >> granule.shift(level) << granule.shift(level);
            return Ok(Leaf { descriptor, at, phys, index, output, level, granule, forbidden });
        }
        cursor = Cursor { level: level + 1, table: address, forbidden: forbidden | descriptor & 0xf << 59 };
        steps.lead(level, cursor);
    }
}
