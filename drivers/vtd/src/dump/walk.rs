//! The way of a request from the root table to memory, entry by entry.

use super::fields::{Field, Fields};
use crate::capabilities::{Capabilities, Mode};
use crate::spec::fault::Reason;
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Stage, Stream};
use iommu_pgtable::Met;

/// Most entries on the way: root, context, directory, PASID table, five levels.
const MOST: usize = 9;
/// Most words of an entry.
const WORDS: usize = 8;

/// What kind of entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Of the root table; in scalable mode the half that serves the device.
    Root,
    /// Of a context table.
    Context,
    /// Of a PASID directory.
    Directory,
    /// Of a PASID table.
    Pasid,
    /// Of a page table.
    Paging {
        /// Of which stage.
        stage: Stage,
        /// 1 maps the smallest pages, as in the specification.
        level: u8,
    },
}

/// An entry that hardware reads on the way.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What kind.
    pub place: Place,
    /// Where it stands.
    pub at: PhysAddr,
    words: [u64; WORDS],
    len: usize,
    mode: Mode,
}

impl Step {
    const NONE: Self = Self { place: Place::Root, at: PhysAddr::new(0), words: [0; WORDS], len: 0, mode: Mode::Legacy };

    /// The entry as it stands in memory.
    pub fn words(&self) -> &[u64] {
        self.words.get(..self.len).unwrap_or(&[])
    }

    /// The fields of each word.
    fn fields(&self) -> [&'static [Field]; 3] {
        match (self.place, self.mode) {
            (Place::Root, _) => [ROOT, &[], &[]],
            (Place::Context, Mode::Legacy) => [LEGACY_CONTEXT[0], LEGACY_CONTEXT[1], &[]],
            (Place::Context, Mode::Scalable) => [CONTEXT[0], CONTEXT[1], &[]],
            (Place::Directory, _) => [DIRECTORY, &[], &[]],
            (Place::Pasid, _) => [PASID[0], PASID[1], PASID[2]],
            (Place::Paging { stage: Stage::First, .. }, _) => [FIRST, &[], &[]],
            (Place::Paging { stage: Stage::Second, .. }, _) => [SECOND, &[], &[]],
        }
    }
}

const ROOT: &[Field] = &[("P", 0, 1)];
const LEGACY_CONTEXT: [&[Field]; 2] = [&[("P", 0, 1), ("FPD", 1, 1), ("TT", 2, 2)], &[("AW", 0, 3), ("DID", 8, 16)]];
const CONTEXT: [&[Field]; 2] = [
    &[("P", 0, 1), ("FPD", 1, 1), ("DTE", 2, 1), ("PASIDE", 3, 1), ("PRE", 4, 1), ("PDTS", 9, 3)],
    &[("RID_PASID", 0, 20), ("RID_PRIV", 20, 1)],
];
const DIRECTORY: &[Field] = &[("P", 0, 1), ("FPD", 1, 1)];
const PASID: [&[Field]; 3] = [
    &[("P", 0, 1), ("FPD", 1, 1), ("AW", 2, 3), ("SSEE", 5, 1), ("PGTT", 6, 3), ("SSADE", 9, 1)],
    &[("DID", 0, 16), ("PWSNP", 23, 1), ("PGSNP", 24, 1)],
    &[("SRE", 0, 1), ("FSPM", 2, 2), ("WPE", 4, 1), ("EAFE", 7, 1)],
];
const FIRST: &[Field] =
    &[("P", 0, 1), ("RW", 1, 1), ("US", 2, 1), ("A", 5, 1), ("D", 6, 1), ("PS", 7, 1), ("EA", 10, 1), ("XD", 63, 1)];
const SECOND: &[Field] = &[("R", 0, 1), ("W", 1, 1), ("PS", 7, 1), ("A", 8, 1), ("D", 9, 1), ("SNP", 11, 1)];

/// Where a request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In memory, here.
    Reaches(PhysAddr),
    /// Refused, with this reason in the fault record.
    Refused(Reason),
    /// The address means an interrupt, which is never looked up as memory. Only writes are.
    Interrupt,
    /// In a guest's first stage, with this guest-physical root: the driver does not read guests' memory.
    Guest(u64),
    /// An entry leads here, where no structure of the driver is.
    Unknown(PhysAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(phys) => write!(f, "{phys}"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Interrupt => f.write_str("an interrupt"),
            Self::Guest(root) => write!(f, "goes on in the guest's first stage at {root:#x}"),
            Self::Unknown(at) => write!(f, "ends at {at}, which is not the driver's"),
        }
    }
}

/// The way of a request of one stream to one address, and where that ends for a read and for a write.
///
/// It is what stands in memory: hardware may have cached something older until the next invalidation.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Whose request.
    pub stream: Stream,
    /// The address.
    pub iova: Iova,
    /// The mode that the unit runs in.
    pub mode: Mode,
    steps: [Step; MOST],
    len: usize,
    /// Of a read, of a write.
    ends: [End; 2],
}

impl Walk {
    /// The entries on the way, from the root.
    pub fn steps(&self) -> &[Step] {
        self.steps.get(..self.len).unwrap_or(&[])
    }

    /// Where a read, or a write, ends.
    pub fn end(&self, write: bool) -> End {
        self.ends[usize::from(write)]
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {}, {}", self.stream, self.iova, self.mode)?;
        for step in self.steps() {
            match step.place {
                Place::Root => f.write_str("  root entry")?,
                Place::Context => f.write_str("  context entry")?,
                Place::Directory => f.write_str("  PASID directory entry")?,
                Place::Pasid => f.write_str("  PASID entry")?,
                Place::Paging { stage: Stage::First, level } => write!(f, "  first stage, level {level}")?,
                Place::Paging { stage: Stage::Second, level } => write!(f, "  second stage, level {level}")?,
            }
            write!(f, " at {}:", step.at)?;
            // Words of zeros at the end say nothing.
            let last = step.words().iter().rposition(|word| *word != 0).unwrap_or(0);
            for (index, value) in step.words().iter().copied().enumerate().take(last + 1) {
                let fields = step.fields().get(index).copied().unwrap_or(&[]);
                write!(f, " {value:#018x}{}", Fields { value, fields })?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  read: {}", self.end(false))?;
        writeln!(f, "  write: {}", self.end(true))
    }
}

/// What a walk is to look for, and what it may read.
pub(crate) struct Request<'r> {
    pub(crate) caps: &'r Capabilities,
    pub(crate) host_bits: u8,
    pub(crate) root: PhysAddr,
    pub(crate) stream: Stream,
    pub(crate) iova: Iova,
    /// Reads a word of a structure that is the driver's; `None` of any other memory.
    pub(crate) load: &'r dyn Fn(PhysAddr) -> Option<u64>,
    /// Follows a page table that is the driver's.
    pub(crate) paging: &'r dyn Paging,
}

/// The page tables of a unit.
pub(crate) trait Paging {
    /// Calls `met` with each entry on the way to `iova` in the tables below `root`; `false` where there are none.
    fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool;
}

/// What ends a walk before it has found out more.
type Stop = [End; 2];

fn refused(reason: Reason) -> Stop {
    [End::Refused(reason); 2]
}

/// Input and output addresses that mean interrupts (section 3.14).
fn is_interrupt(address: u64) -> bool {
    address >> 20 == 0xfee
}

/// The address in an entry.
fn pointer(word: u64) -> PhysAddr {
    PhysAddr::new(word & 0x000f_ffff_ffff_f000)
}

impl Request<'_> {
    /// Walks.
    pub(crate) fn walk(&self) -> Walk {
        let mut walk = Walk {
            stream: self.stream,
            iova: self.iova,
            mode: self.caps.mode(),
            steps: [Step::NONE; MOST],
            len: 0,
            ends: [End::Refused(Reason::NoInterrupt), End::Interrupt],
        };
        // With a PASID it is an address like any other, until it comes out (section 3.14).
        if self.stream.pasid.is_none() && is_interrupt(self.iova.get()) {
            return walk;
        }
        let found = match walk.mode {
            Mode::Legacy => self.legacy(&mut walk),
            Mode::Scalable => self.scalable(&mut walk),
        };
        walk.ends = found.unwrap_or_else(|stop| stop);
        walk
    }

    /// Reads an entry of `len` words and notes it.
    fn read(&self, walk: &mut Walk, place: Place, at: PhysAddr, len: usize) -> Result<[u64; WORDS], Stop> {
        let mut words = [0; WORDS];
        for (index, word) in words.iter_mut().enumerate().take(len) {
            *word = (self.load)(at.wrapping_add(index as u64 * 8)).ok_or([End::Unknown(at); 2])?;
        }
        note(walk, Step { place, at, words, len, mode: walk.mode });
        Ok(words)
    }

    fn legacy(&self, walk: &mut Walk) -> Result<[End; 2], Stop> {
        let source = self.stream.id.get();
        if self.stream.pasid.is_some() {
            return Err(refused(Reason::ModeForPasid));
        }
        let at = self.root.wrapping_add(u64::from(source >> 8 & 0xff) * 16);
        let [root, ..] = self.read(walk, Place::Root, at, 2)?;
        present(root, Reason::LegacyRootNotPresent)?;
        let at = pointer(root).wrapping_add(u64::from(source & 0xff) * 16);
        let [low, high, ..] = self.read(walk, Place::Context, at, 2)?;
        present(low, Reason::LegacyContextNotPresent)?;
        // TT.
        match low >> 2 & 3 {
            0 | 1 => self.second(walk, low, high & 7),
            2 => Ok(self.untranslated(Reason::LegacyBeyondWidth, Reason::LegacyInterruptRange)),
            _ => Err(refused(Reason::LegacyContextInvalid)),
        }
    }

    fn scalable(&self, walk: &mut Walk) -> Result<[End; 2], Stop> {
        let source = self.stream.id.get();
        let (bus, devfn) = (u64::from(source >> 8 & 0xff), u64::from(source & 0xff));
        let at = self.root.wrapping_add(bus * 16 + (devfn >> 7) * 8);
        let [root, ..] = self.read(walk, Place::Root, at, 1)?;
        present(root, Reason::RootNotPresent)?;
        let at = pointer(root).wrapping_add((devfn & 0x7f) * 32);
        let [context, rid, ..] = self.read(walk, Place::Context, at, 4)?;
        present(context, Reason::ContextNotPresent)?;
        let rid_pasid = rid & 0xf_ffff;
        let pasid = match self.stream.pasid.map(|pasid| u64::from(pasid.get())) {
            None => rid_pasid,
            // PASIDE; PDTS: 2^(n + 7) directory entries of 64 PASIDs.
            Some(_) if context >> 3 & 1 == 0 => return Err(refused(Reason::PasidDisabled)),
            Some(pasid) if pasid >> ((context >> 9 & 7) + 13) != 0 => return Err(refused(Reason::PasidTooLarge)),
            Some(pasid) if pasid == rid_pasid => return Err(refused(Reason::RidPasid)),
            Some(pasid) if pasid >> self.caps.pasid_bits() != 0 => return Err(refused(Reason::PasidTooWide)),
            Some(pasid) => pasid,
        };
        let at = pointer(context).wrapping_add((pasid >> 6) * 8);
        let [directory, ..] = self.read(walk, Place::Directory, at, 1)?;
        present(directory, Reason::DirectoryNotPresent)?;
        let at = pointer(directory).wrapping_add((pasid & 0x3f) * 64);
        let [low, _, high, ..] = self.read(walk, Place::Pasid, at, 8)?;
        present(low, Reason::PasidNotPresent)?;
        // PGTT.
        match low >> 6 & 7 {
            1 => self.first(walk, high),
            2 => self.second(walk, low, low >> 2 & 7),
            3 => Ok([End::Guest(high & !0xfff); 2]),
            4 => Ok(self.untranslated(Reason::BeyondHost, Reason::InterruptRange)),
            _ => Err(refused(Reason::PasidInvalid)),
        }
    }

    fn untranslated(&self, beyond: Reason, interrupt: Reason) -> [End; 2] {
        self.output(self.iova.get(), beyond, interrupt)
    }

    /// Both ends in the memory at `phys`, where memory can be.
    fn output(&self, phys: u64, beyond: Reason, interrupt: Reason) -> [End; 2] {
        match phys {
            _ if phys >> self.host_bits != 0 => refused(beyond),
            _ if is_interrupt(phys) => refused(interrupt),
            _ => [End::Reaches(PhysAddr::new(phys)); 2],
        }
    }

    /// Follows page tables; the bits that all entries have set, and the last entry with its level.
    fn follow(&self, walk: &mut Walk, stage: Stage, root: PhysAddr) -> Result<(u64, u64, u8), Stop> {
        let (mut all, mut last) = (u64::MAX, None);
        let mode = walk.mode;
        let known = self.paging.trace(root, self.iova, &mut |met| {
            let mut words = [0; WORDS];
            words[0] = met.entry;
            let place = Place::Paging { stage, level: met.level + 1 };
            note(walk, Step { place, at: met.at, words, len: 1, mode });
            (all, last) = (all & met.entry, Some((met.entry, met.level)));
        });
        match last {
            Some((entry, level)) if known => Ok((all, entry, level)),
            _ => Err([End::Unknown(root); 2]),
        }
    }

    fn first(&self, walk: &mut Walk, high: u64) -> Result<[End; 2], Stop> {
        // FSPM: 4 or 5 levels. What is not the sign's copy is not canonical; the upper half is not mapped by the driver.
        let bits = if high >> 2 & 3 == 1 { 57 } else { 48 };
        let shift = 64 - bits;
        if ((self.iova.get() << shift) as i64 >> shift) as u64 != self.iova.get() {
            return Err(refused(Reason::NotCanonical));
        }
        let (all, entry, level) = match self.follow(walk, Stage::First, pointer(high)) {
            // Beyond what the driver maps: its tables have nothing there.
            Err(_) if self.iova.get() >> (bits - 1) != 0 => return Err(refused(Reason::FirstNotPresent)),
            found => found?,
        };
        if entry & 1 == 0 {
            return Err(refused(Reason::FirstNotPresent));
        }
        // U/S.
        if all & 4 == 0 {
            return Err(refused(Reason::Supervisor));
        }
        let [read, write] = self.leaf(entry, level, Reason::InterruptRange);
        Ok([read, if all & 2 != 0 { write } else { End::Refused(Reason::NoWrite) }])
    }

    /// `low` has the pointer, and `width` is AW.
    fn second(&self, walk: &mut Walk, low: u64, width: u64) -> Result<[End; 2], Stop> {
        let legacy = walk.mode == Mode::Legacy;
        let reason = |legacy_reason, scalable_reason| if legacy { legacy_reason } else { scalable_reason };
        // AW 1 is 39 bits, and each more is 9 bits.
        let bits = (30 + 9 * width).min(self.caps.guest_bits().into());
        if self.iova.get().checked_shr(bits as u32).unwrap_or(0) != 0 {
            return Err(refused(reason(Reason::LegacyBeyondWidth, Reason::SecondBeyondWidth)));
        }
        let (all, entry, level) = self.follow(walk, Stage::Second, pointer(low))?;
        let none =
            [Reason::LegacyRead, Reason::LegacyWrite].map(|of| End::Refused(reason(of, Reason::SecondPermission)));
        if entry & 3 == 0 || all & 3 == 0 {
            return Err(none);
        }
        let [read, write] = self.leaf(entry, level, reason(Reason::LegacyInterruptRange, Reason::InterruptRange));
        let allowed = |bit: u64, end, legacy_reason, scalable_reason| match all & bit {
            0 => End::Refused(reason(legacy_reason, scalable_reason)),
            _ => end,
        };
        Ok([
            allowed(1, read, Reason::LegacyRead, Reason::NoRead),
            allowed(2, write, Reason::LegacyWrite, Reason::NoWrite),
        ])
    }

    /// Both ends in the memory that a leaf leads to.
    fn leaf(&self, entry: u64, level: u8, interrupt: Reason) -> [End; 2] {
        let inside = (1u64 << (12 + 9 * u32::from(level.min(4)))) - 1;
        let phys = pointer(entry).get() & !inside | self.iova.get() & inside;
        if is_interrupt(phys) { refused(interrupt) } else { [End::Reaches(PhysAddr::new(phys)); 2] }
    }
}

fn note(walk: &mut Walk, step: Step) {
    if let Some(slot) = walk.steps.get_mut(walk.len) {
        *slot = step;
        walk.len += 1;
    }
}

/// Ends where the entry that begins with `word` is not present.
fn present(word: u64, otherwise: Reason) -> Result<(), Stop> {
    if word & 1 != 0 { Ok(()) } else { Err(refused(otherwise)) }
}
