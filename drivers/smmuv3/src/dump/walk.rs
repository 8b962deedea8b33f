//! The way of a request from the stream table to memory, entry by entry (chapter 15).

use super::fields::{Field, Fields};
use crate::capabilities::Capabilities;
use crate::spec::event::{Class, meaning};
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Stage, Stream};
use iommu_pgtable::Met;

/// Most entries on the way: two of the stream table, two of context descriptors, five levels.
const MOST: usize = 9;
/// Most words of an entry.
const WORDS: usize = 8;

/// What kind of entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A level-1 stream table descriptor.
    Level1Stream,
    /// A stream table entry.
    Stream,
    /// A level-1 context descriptor.
    Level1Context,
    /// A context descriptor.
    Context,
    /// Of a page table.
    Paging {
        /// Of which stage.
        stage: Stage,
        /// 3 maps the smallest pages, as in the specification.
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
}

impl Step {
    const NONE: Self = Self { place: Place::Stream, at: PhysAddr::new(0), words: [0; WORDS], len: 0 };

    /// The entry as it stands in memory.
    pub fn words(&self) -> &[u64] {
        self.words.get(..self.len).unwrap_or(&[])
    }

    /// The fields of each word.
    fn fields(&self) -> [&'static [Field]; 4] {
        match self.place {
            Place::Level1Stream => [&[("Span", 0, 5)], &[], &[], &[]],
            Place::Stream => STE,
            Place::Level1Context => [&[("V", 0, 1)], &[], &[], &[]],
            Place::Context => CD,
            Place::Paging { stage: Stage::First, .. } => [FIRST, &[], &[], &[]],
            Place::Paging { stage: Stage::Second, .. } => [SECOND, &[], &[], &[]],
        }
    }
}

const STE: [&[Field]; 4] = [
    &[("V", 0, 1), ("Config", 1, 3), ("S1Fmt", 4, 2), ("S1CDMax", 59, 5)],
    &[
        ("S1DSS", 0, 2),
        ("S1CIR", 2, 2),
        ("S1COR", 4, 2),
        ("S1CSH", 6, 2),
        ("MEV", 19, 1),
        ("S2FWB", 25, 1),
        ("S1STALLD", 27, 1),
        ("EATS", 28, 2),
        ("STRW", 30, 2),
        ("SHCFG", 44, 2),
    ],
    &[
        ("S2VMID", 0, 16),
        ("S2T0SZ", 32, 6),
        ("S2SL0", 38, 2),
        ("S2IR0", 40, 2),
        ("S2OR0", 42, 2),
        ("S2SH0", 44, 2),
        ("S2TG", 46, 2),
        ("S2PS", 48, 3),
        ("S2AA64", 51, 1),
        ("S2AFFD", 53, 1),
        ("S2PTW", 54, 1),
        ("S2HD", 55, 1),
        ("S2HA", 56, 1),
        ("S2S", 57, 1),
        ("S2R", 58, 1),
    ],
    &[],
];
const CD: [&[Field]; 4] = [
    &[
        ("T0SZ", 0, 6),
        ("TG0", 6, 2),
        ("IR0", 8, 2),
        ("OR0", 10, 2),
        ("SH0", 12, 2),
        ("EPD0", 14, 1),
        ("EPD1", 30, 1),
        ("V", 31, 1),
        ("IPS", 32, 3),
        ("AFFD", 35, 1),
        ("AA64", 41, 1),
        ("HD", 42, 1),
        ("HA", 43, 1),
        ("S", 44, 1),
        ("R", 45, 1),
        ("A", 46, 1),
        ("ASET", 47, 1),
        ("ASID", 48, 16),
    ],
    &[],
    &[],
    &[],
];
const FIRST: &[Field] = &[
    ("V", 0, 1),
    ("T", 1, 1),
    ("AttrIndx", 2, 3),
    ("AP1", 6, 1),
    ("AP2", 7, 1),
    ("SH", 8, 2),
    ("AF", 10, 1),
    ("nG", 11, 1),
    ("DBM", 51, 1),
    ("PXN", 53, 1),
    ("UXN", 54, 1),
];
const SECOND: &[Field] = &[
    ("V", 0, 1),
    ("T", 1, 1),
    ("MemAttr", 2, 4),
    ("R", 6, 1),
    ("W", 7, 1),
    ("SH", 8, 2),
    ("AF", 10, 1),
    ("DBM", 51, 1),
    ("XN", 53, 2),
];

/// Where a request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In memory, here.
    Reaches(PhysAddr),
    /// Refused, with this event.
    Refused {
        /// Its number (section 7.3).
        event: u8,
        /// S2.
        stage2: bool,
    },
    /// Aborted, without an event.
    Aborted,
    /// In a guest's stage 1, whose context descriptors are at this guest-physical address: the driver does not read guests'
    /// memory.
    Guest(u64),
    /// An entry leads here, where no structure of the driver is.
    Unknown(PhysAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Reaches(phys) => write!(f, "{phys}"),
            Self::Refused { event, stage2 } => {
                write!(f, "refused: {event:#x}, {}", meaning(event, stage2, Class::Input).text)
            }
            Self::Aborted => f.write_str("aborted"),
            Self::Guest(context) => write!(f, "goes on in the guest's stage 1 at {context:#x}"),
            Self::Unknown(at) => write!(f, "ends at {at}, which is not the driver's"),
        }
    }
}

/// The way of a request of one stream to one address, and where that ends for a read and for a write. Both unprivileged, and of
/// data.
///
/// It is what stands in memory: hardware may have cached something older until the next invalidation.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Whose request.
    pub stream: Stream,
    /// The address.
    pub iova: Iova,
    steps: [Step; MOST],
    len: usize,
    /// Of a read, of a write.
    ends: [End; 2],
}

impl Walk {
    /// The entries on the way, from the stream table.
    pub fn steps(&self) -> &[Step] {
        self.steps.get(..self.len).unwrap_or(&[])
    }

    /// Where a read, or a write, ends.
    pub fn end(&self, write: bool) -> End {
        self.ends[usize::from(write)]
    }

    fn note(&mut self, step: Step) {
        if let Some(slot) = self.steps.get_mut(self.len) {
            *slot = step;
            self.len += 1;
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {}", self.stream, self.iova)?;
        for step in self.steps() {
            match step.place {
                Place::Level1Stream => f.write_str("  level-1 stream descriptor")?,
                Place::Stream => f.write_str("  stream table entry")?,
                Place::Level1Context => f.write_str("  level-1 context descriptor")?,
                Place::Context => f.write_str("  context descriptor")?,
                Place::Paging { stage: Stage::First, level } => write!(f, "  stage 1, level {level}")?,
                Place::Paging { stage: Stage::Second, level } => write!(f, "  stage 2, level {level}")?,
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

/// The page tables of a unit.
pub(crate) trait Paging {
    /// Calls `met` with each entry on the way to `iova` in the tables below `root`; `false` where there are none.
    fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool;
}

/// The stream table of a unit.
#[derive(Clone, Copy)]
pub(crate) struct Streams {
    pub(crate) root: PhysAddr,
    /// Stream ids below 2^this have a place.
    pub(crate) bits: u8,
    /// Stream id bits that level-2 tables resolve; `None` where there is one level.
    pub(crate) split: Option<u8>,
}

/// What a walk is to look for, and what it may read.
pub(crate) struct Request<'r> {
    pub(crate) caps: &'r Capabilities,
    pub(crate) streams: Streams,
    pub(crate) stream: Stream,
    pub(crate) iova: Iova,
    /// Reads a word of a structure that is the driver's; `None` of any other memory.
    pub(crate) load: &'r dyn Fn(PhysAddr) -> Option<u64>,
    /// Follows a page table that is the driver's.
    pub(crate) paging: &'r dyn Paging,
}

/// Where both ends are known, or why neither is.
type Ends = Result<[End; 2], [End; 2]>;

fn refused(event: u8) -> [End; 2] {
    [End::Refused { event, stage2: false }; 2]
}

/// Bits `low` and up, `width` of them.
fn field(word: u64, low: u8, width: u8) -> u64 {
    word >> low & ((1 << width) - 1)
}

/// The address in an entry, from bit `low` up to bit 51.
fn pointer(word: u64, low: u8) -> PhysAddr {
    PhysAddr::new(word & 0x000f_ffff_ffff_ffff & !((1 << low) - 1))
}

/// How a stage is walked, as its descriptor or entry has it.
struct Shape {
    stage: Stage,
    root: PhysAddr,
    /// Width of input addresses.
    bits: u8,
    /// TG0 or S2TG.
    granule: u8,
    /// HA: hardware sets the access flag; or AFFD: nobody minds that it is clear.
    flags: bool,
    /// HD: what is clean and may be written counts as writable.
    dirty: bool,
}

impl Request<'_> {
    /// Walks.
    pub(crate) fn walk(&self) -> Walk {
        let ends = [End::Aborted; 2];
        let mut walk = Walk { stream: self.stream, iova: self.iova, steps: [Step::NONE; MOST], len: 0, ends };
        walk.ends = self.entry(&mut walk).unwrap_or_else(|stop| stop);
        walk
    }

    /// Reads an entry of `len` words and notes it.
    fn read(&self, walk: &mut Walk, place: Place, at: PhysAddr, len: usize) -> Result<[u64; WORDS], [End; 2]> {
        let mut words = [0; WORDS];
        for (index, word) in words.iter_mut().enumerate().take(len) {
            *word = (self.load)(at.wrapping_add(index as u64 * 8)).ok_or([End::Unknown(at); 2])?;
        }
        walk.note(Step { place, at, words, len });
        Ok(words)
    }

    fn entry(&self, walk: &mut Walk) -> Ends {
        let id = self.stream.id.get();
        if u64::from(id) >> self.streams.bits != 0 {
            return Err(refused(0x02));
        }
        let at = match self.streams.split {
            None => self.streams.root.wrapping_add(u64::from(id) * 64),
            Some(split) => {
                let at = self.streams.root.wrapping_add(u64::from(id >> split) * 8);
                let [level1, ..] = self.read(walk, Place::Level1Stream, at, 1)?;
                let (span, index) = (field(level1, 0, 5), u64::from(id) & ((1 << split) - 1));
                if span == 0 || span > u64::from(split) + 1 || index >> (span - 1) != 0 {
                    return Err(refused(0x02));
                }
                pointer(level1, 6).wrapping_add(index * 64)
            }
        };
        let words = self.read(walk, Place::Stream, at, WORDS)?;
        let [word0, ..] = words;
        if word0 & 1 == 0 {
            return Err(refused(0x04));
        }
        // Config; S1CDMax.
        let (config, count) = (field(word0, 1, 3), field(word0, 59, 5));
        match config {
            0..=3 => Err([End::Aborted; 2]),
            4 | 6 if self.stream.pasid.is_some() => Err(refused(0x08)),
            5 | 7 if count == 0 && self.stream.pasid.is_some() => Err(refused(0x08)),
            4 => Ok(self.untranslated()),
            6 => self.second(walk, &words),
            _ => self.contexts(walk, &words, count as u8),
        }
    }

    /// Stage 1 is on: finds the context descriptor. `count` is S1CDMax.
    fn contexts(&self, walk: &mut Walk, words: &[u64; WORDS], count: u8) -> Ends {
        let [word0, word1, ..] = *words;
        let (nested, default) = (field(word0, 1, 3) == 7, field(word1, 0, 2));
        let index = match (self.stream.pasid.map(|pasid| u64::from(pasid.get())), count) {
            (None, 0) => 0,
            (None, _) => match default {
                0 => return Err(refused(0x06)),
                1 if nested => return self.second(walk, words),
                1 => return Ok(self.untranslated()),
                _ => 0,
            },
            (Some(0), _) if default == 2 => return Err(refused(0x06)),
            (Some(pasid), count) if pasid >> count != 0 => return Err(refused(0x08)),
            (Some(pasid), _) => pasid,
        };
        let table = pointer(word0, 6);
        if nested {
            return Err([End::Guest(table.get()); 2]);
        }
        // S1Fmt: log2 of the descriptors in a leaf table, where there are two levels.
        let leaf = match field(word0, 4, 2) {
            _ if count == 0 => None,
            1 => Some(6),
            2 => Some(10),
            _ => None,
        };
        let at = match leaf {
            None => table.wrapping_add(index * 64),
            Some(leaf) => {
                let [level1, ..] = self.read(walk, Place::Level1Context, table.wrapping_add((index >> leaf) * 8), 1)?;
                if level1 & 1 == 0 {
                    return Err(refused(0x08));
                }
                pointer(level1, 12).wrapping_add((index & ((1 << leaf) - 1)) * 64)
            }
        };
        let [word0, word1, ..] = self.read(walk, Place::Context, at, WORDS)?;
        // V.
        if word0 >> 31 & 1 == 0 {
            return Err(refused(0x0a));
        }
        let shape = Shape {
            stage: Stage::First,
            root: pointer(word1, 4),
            bits: 64 - field(word0, 0, 6) as u8,
            granule: field(word0, 6, 2) as u8,
            // HA or AFFD; HD.
            flags: word0 & (1 << 43 | 1 << 35) != 0,
            dirty: word0 >> 42 & 1 != 0,
        };
        // EPD0; the upper half has EPD1.
        if word0 >> 14 & 1 != 0 {
            return Err(refused(0x10));
        }
        self.follow(walk, &shape)
    }

    fn second(&self, walk: &mut Walk, words: &[u64; WORDS]) -> Ends {
        let [_, _, word2, word3, ..] = *words;
        // What stage 1 would have put out is too wide.
        if self.iova.get() >> self.caps.output_bits() != 0 {
            return Err(refused(0x11));
        }
        let shape = Shape {
            stage: Stage::Second,
            root: pointer(word3, 4),
            bits: 64 - field(word2, 32, 6) as u8,
            granule: field(word2, 46, 2) as u8,
            // S2HA or S2AFFD; S2HD.
            flags: word2 & (1 << 56 | 1 << 53) != 0,
            dirty: word2 >> 55 & 1 != 0,
        };
        self.follow(walk, &shape)
    }

    /// Both ends in the memory at the address itself, where memory can be.
    fn untranslated(&self) -> [End; 2] {
        let address = self.iova.get();
        if address >> self.caps.output_bits() != 0 { refused(0x11) } else { [End::Reaches(PhysAddr::new(address)); 2] }
    }

    /// Follows page tables.
    fn follow(&self, walk: &mut Walk, shape: &Shape) -> Ends {
        let stage2 = shape.stage == Stage::Second;
        let none = |event| [End::Refused { event, stage2 }; 2];
        if self.iova.get().checked_shr(shape.bits.into()).unwrap_or(0) != 0 {
            return Err(none(0x10));
        }
        let mut last = None;
        let known = self.paging.trace(shape.root, self.iova, &mut |met| {
            let mut words = [0; WORDS];
            words[0] = met.entry;
            // Levels count from the root in the specification, and end with 3.
            let place = Place::Paging { stage: shape.stage, level: 3u8.wrapping_sub(met.level) };
            walk.note(Step { place, at: met.at, words, len: 1 });
            last = Some((met.entry, met.level));
        });
        let Some((entry, level)) = last.filter(|_| known) else { return Err([End::Unknown(shape.root); 2]) };
        // A page has 3 in its low bits, a block 1.
        if entry & 3 != if level == 0 { 3 } else { 1 } {
            return Err(none(0x10));
        }
        // AF.
        if entry >> 10 & 1 == 0 && !shape.flags {
            return Err(none(0x12));
        }
        let page_bits = match shape.granule {
            1 => 16,
            2 => 14,
            _ => 12,
        };
        let inside = (1u64 << (page_bits + (page_bits - 3) * u32::from(level.min(3)))) - 1;
        let reached = End::Reaches(PhysAddr::new(entry & 0x0000_ffff_ffff_f000 & !inside | self.iova.get() & inside));
        // DBM, which counts where hardware may make it writable.
        let clean = shape.dirty && entry >> 51 & 1 != 0;
        let (read, write) = match shape.stage {
            // AP[1]: unprivileged accesses; AP[2]: reads only.
            Stage::First => (entry >> 6 & 1 != 0, entry >> 6 & 1 != 0 && (entry >> 7 & 1 == 0 || clean)),
            Stage::Second => (entry >> 6 & 1 != 0, entry >> 7 & 1 != 0 || clean),
        };
        let end = |allowed| if allowed { reached } else { End::Refused { event: 0x13, stage2 } };
        Ok([end(read), end(write)])
    }
}
