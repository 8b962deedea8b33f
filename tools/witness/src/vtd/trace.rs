//! From QEMU's lines to events.
//!
//! What counts is the unit's own account of its work: the entry used and where it leads (`vtd_iotlb_page_*` and the
//! `vtd_dmar_translate` that follows each), faults as they happen (`vtd_dmar_fault`) and as the guest can read them
//! (`vtd_frr_new`), descriptors by their raw bits (`vtd_inv_desc`), waits that wrote their status. All other events of
//! the unit are kept out. A line that begins like one of these and then does not read like it is a problem.

use super::descriptor::{decode, is_pasid_cache};
use crate::dialect::Mode;
use crate::event::{Access, Direction, Domains, Event, Fault, Invalidation, Setup, Span, Trace, Translation, What};
use crate::format::{scan, without_stamp};

/// Address bits of a page table entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What QEMU 10.0 does without a word.
const UNSEEN: Invalidation = Invalidation::PasidCache { domains: Domains::Unseen, pasid: None };

/// Offset bits in a page of 4 KiB, 2 MiB and 1 GiB.
const PAGES: [u64; 3] = [(1 << 12) - 1, (1 << 21) - 1, (1 << 30) - 1];

/// The events in `text`, of a unit in `mode`.
pub fn read(text: &str, mode: Mode) -> Trace {
    let mut reader = Reader { mode, trace: Trace::default(), entry: None, fetched: None, names_pasid_cache: false };
    for (at, line) in text.lines().enumerate() {
        if reader.line(at + 1, without_stamp(line)).is_none() {
            reader.problem(at + 1, "an event that does not read as it should", line);
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        reader.problem(text.lines().count(), "the trace stops in the middle of a line", "");
    }
    reader.end()
}

/// An entry that was found, cached or in the tables; where it leads follows in a line of its own.
struct Entry {
    line: usize,
    source: u32,
    iova: u64,
    bits: u64,
    domain: u16,
    cached: bool,
}

struct Reader {
    mode: Mode,
    trace: Trace,
    entry: Option<Entry>,
    /// The line that fetched a descriptor, until the descriptor itself shows.
    fetched: Option<usize>,
    /// Whether this version of QEMU traces PASID-cache invalidations.
    names_pasid_cache: bool,
}

impl Reader {
    /// Takes one line; `None` where it makes no sense.
    fn line(&mut self, line: usize, text: &str) -> Option<()> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let what = match name {
            "vtd_iotlb_page_hit" | "vtd_iotlb_page_update" => {
                let cached = name == "vtd_iotlb_page_hit";
                let pattern = if cached { "hit" } else { "update" };
                let pattern = format!("IOTLB page {pattern} sid {{}} iova {{}} slpte {{}} domain {{}}");
                let [source, iova, bits, domain] = scan(rest, &pattern)?;
                self.lone_entry();
                let (source, domain) = (u32::try_from(source).ok()?, u16::try_from(domain).ok()?);
                self.entry = Some(Entry { line, source, iova, bits, domain, cached });
                return Some(());
            }
            "vtd_dmar_translate" => What::Access(Access::Translated(self.translation(rest)?)),
            "vtd_dmar_fault" => {
                let [source, code, address, write] = scan(rest, "sid {} fault {} addr {} write {}")?;
                What::Access(Access::Fault(fault(source, code, address, write, None)?))
            }
            "vtd_fault_disabled" => What::Access(Access::Odd("an access refused without a fault, as told (FPD)")),
            "vtd_translate_pt" => What::Access(Access::Odd("an access passed through untranslated")),
            "vtd_frr_new" => {
                let [_, high, low] = scan(rest, "index {} high {} low {}")?;
                What::Recorded(recorded(high, low)?)
            }
            "vtd_inv_qi_head" => {
                let [_] = scan(rest, "read head {}")?;
                self.untraced_descriptor();
                self.fetched = Some(line);
                return Some(());
            }
            "vtd_inv_desc" => {
                let [high, low] = scan(rest, "invalidate desc type {w} high {} low {}")?;
                self.fetched = None;
                self.names_pasid_cache |= is_pasid_cache(low);
                let Some(invalidation) = decode(low, high, self.mode) else { return Some(()) };
                What::Invalidation(invalidation)
            }
            "vtd_inv_desc_wait_sw" => {
                let [_, data] = scan(rest, "wait invalidate status write addr {} data {}")?;
                What::Wait(u32::try_from(data).ok()?)
            }
            "vtd_inv_desc_wait_write_fail" => What::Setup(Setup::Trouble("a wait could not write its status")),
            "vtd_warn_invalid_qi_tail" => What::Setup(Setup::Trouble("the queue was given an invalid tail")),
            "vtd_inv_qi_setup" => {
                let [_, _] = scan(rest, "addr {} size {}")?;
                What::Setup(Setup::Queue)
            }
            "vtd_reg_dmar_root" => {
                let [_, scalable] = scan(rest, "addr {} scalable {}")?;
                let right = (scalable != 0) == (self.mode != Mode::Legacy);
                What::Setup(if right { Setup::Tables } else { Setup::Trouble("a root table of another mode") })
            }
            "vtd_dmar_enable" => {
                let [on] = scan(rest, "enable {}")?;
                What::Setup(Setup::Translation(on != 0))
            }
            "vtd_switch_address_space" => {
                let pattern = "Device {h}:{h}.{h} switching address space (iommu enabled={})";
                let [bus, device, function, on] = scan(rest, pattern)?;
                What::Setup(Setup::Routed(source_id(bus, device, function)?, on != 0))
            }
            _ => return Some(()),
        };
        self.untraced_descriptor();
        self.push(line, what);
        Some(())
    }

    fn push(&mut self, line: usize, what: What) {
        self.trace.events.push(Event { line, what });
    }

    fn problem(&mut self, line: usize, what: &str, text: &str) {
        let text = if text.is_empty() { String::new() } else { format!(": {text}") };
        self.trace.problems.push(format!("trace line {line}: {what}{text}"));
    }

    /// Where the entry that was found leads.
    fn translation(&mut self, rest: &str) -> Option<Translation> {
        let [bus, device, function, base, phys, mask] = scan(rest, "dev {h}:{h}.{h} iova {} -> gpa {} mask {}")?;
        // Without an entry that fits, the two lines contradict each other.
        let Entry { source, iova, bits, domain, cached, .. } = self.entry.take()?;
        PAGES.contains(&mask).then_some(())?;
        let block = Span::block(iova, mask);
        let fits = source == source_id(bus, device, function)? && block.first == base && bits & ADDRESS & !mask == phys;
        let (readable, writable) = (bits & 1 != 0, bits & 2 != 0);
        fits.then_some(Translation { source, iova, block, phys, domain, readable, writable, cached })
    }

    /// An entry that no translation followed.
    fn lone_entry(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.problem(entry.line, "an entry was found that leads nowhere", "");
        }
    }

    /// QEMU 10.0 fetches and executes PASID-cache descriptors without a word. It does so with no others.
    fn untraced_descriptor(&mut self) {
        if let Some(line) = self.fetched.take() {
            self.push(line, What::Invalidation(UNSEEN));
        }
    }

    fn end(mut self) -> Trace {
        self.lone_entry();
        self.untraced_descriptor();
        if self.names_pasid_cache {
            let unseen = What::Invalidation(UNSEEN);
            self.trace.events.retain(|event| event.what != unseen);
        }
        self.trace
    }
}

fn source_id(bus: u64, device: u64, function: u64) -> Option<u32> {
    (bus < 256 && device < 32 && function < 8).then_some((bus << 8 | device << 3 | function) as u32)
}

fn fault(source: u64, code: u64, address: u64, write: u64, pasid: Option<u32>) -> Option<Fault> {
    let direction = if write == 0 { Direction::Read } else { Direction::Write };
    Some(Fault { source: u32::try_from(source).ok()?, address, code: u32::try_from(code).ok()?, direction, pasid })
}

/// The PASID that QEMU records for a fault of a request with `pasid`: none where it did not come to the tables of pages,
/// and else 16 bits of it.
pub fn recorded_pasid(code: u32, pasid: Option<u32>) -> Option<u32> {
    let of_structures = matches!(code, 0x01..=0x03 | 0x08..=0x0b | 0x30..=0x6f);
    pasid.filter(|_| !of_structures).map(|pasid| pasid & 0xffff)
}

/// A fault recording register (section 11.4.14). Both of its type bits clear are a write, T1 alone is a read; the PASID
/// counts where PP is set.
fn recorded(high: u64, low: u64) -> Option<Fault> {
    let write = match (high >> 62 & 1, high >> 28 & 1) {
        (0, 0) => 1,
        (1, 0) => 0,
        _ => return None,
    };
    // QEMU 10.0 gives requests without one that of the entry that stands for them.
    let pasid = (high >> 31 & 1 == 1).then_some((high >> 40 & 0xf_ffff) as u32).filter(|pasid| *pasid != 0);
    fault(high & 0xffff, high >> 32 & 0xff, low & !0xfff, write, pasid)
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
