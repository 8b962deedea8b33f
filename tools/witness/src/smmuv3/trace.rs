//! From QEMU's lines to events.
//!
//! An access begins with the look-up of its stream's configuration (`smmuv3_config_cache_*`), may go on with that of its
//! translation (`smmu_iotlb_lookup_*`, `smmu_ptw_*`, `smmu_iotlb_insert`), and ends with a translation
//! (`smmuv3_translate_success`), an abort (`smmuv3_translate_abort`) or an event (`smmuv3_record_event` in QEMU 10.0,
//! `smmuv3_propagate_event` in 11.1). Where none of them comes it was dropped in silence. A hit does not say which entry
//! it used: that is the one that was seen to be taken in.
//!
//! What the lines do not say: an access's direction (`is_write` of aborts is always 0), what an event was recorded with
//! besides type and stream, and whether a CMD_CFGI_STE was for the leaf only. A CMD_CFGI_* for a stream that no device
//! has is named and not said which.

use super::commands::Commands;
use super::nested::Fetch;
use super::tlb::{Entry, Tag, Tlb, block, page_bits};
use crate::dialect::Regime;
use crate::event::{
    Access, Direction, Domains, Event, Invalidation, Refusal, Setup, Span, Stage, Trace, Translation, What,
};
use crate::format::{scan, without_stamp};

/// Registers, by their offset.
mod register {
    pub const CR0: u64 = 0x20;
    pub const STRTAB_BASE: u64 = 0x80;
    pub const CMDQ_BASE: u64 = 0x90;
    pub const CMDQ_CONS: u64 = 0x9c;
    pub const EVENTQ_BASE: u64 = 0xa0;
    pub const EVENTQ_CONS: u64 = 0xac;
}

/// Events, by QEMU's names without what all of them begin with (section 7.3).
const REASONS: [(&str, u32); 18] = [
    ("F_UUT", 0x01),
    ("C_BAD_STREAMID", 0x02),
    ("F_STE_FETCH", 0x03),
    ("C_BAD_STE", 0x04),
    ("F_BAD_ATS_TREQ", 0x05),
    ("F_STREAM_DISABLED", 0x06),
    ("F_TRANS_FORBIDDEN", 0x07),
    ("C_BAD_SUBSTREAMID", 0x08),
    ("F_CD_FETCH", 0x09),
    ("C_BAD_CD", 0x0a),
    ("F_WALK_EABT", 0x0b),
    ("F_TRANSLATION", 0x10),
    ("F_ADDR_SIZE", 0x11),
    ("F_ACCESS", 0x12),
    ("F_PERMISSION", 0x13),
    ("F_TLB_CONFLICT", 0x20),
    ("F_CFG_CONFLICT", 0x21),
    ("E_PAGE_REQ", 0x24),
];

/// The first of them that tells of an address.
const FIRST_OF_ACCESS: u32 = 0x0b;

/// Of them, that an entry does not let such an access through.
const PERMISSION: u32 = 0x13;

/// Lines inside of an access that say nothing which is needed.
const INSIDE: [&str; 8] = [
    "smmuv3_find_ste",
    "smmuv3_find_ste_2lvl",
    "smmuv3_get_ste",
    "smmuv3_decode_cd",
    "smmuv3_decode_cd_tt",
    "smmu_get_pte",
    "smmu_ptw_level",
    "smmu_ptw_invalid_pte",
];

/// Address bits of an entry in a page table.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The events in `text`, of a unit in this regime.
pub fn read(text: &str, regime: Regime) -> Trace {
    let mut reader = Reader {
        regime,
        trace: Trace::default(),
        commands: Commands::default(),
        tlb: Tlb::default(),
        open: None,
        faults: None,
    };
    for (at, line) in text.lines().enumerate() {
        if reader.line(at + 1, without_stamp(line)).is_none() {
            reader.problem(at + 1, "an event that does not read as it should", line);
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        reader.problem(text.lines().count(), "the trace stops in the middle of a line", "");
    }
    reader.close();
    reader.trace
}

/// An access that has not come to anything yet.
pub(super) struct Open {
    line: usize,
    pub(super) source: u32,
    pub(super) lookup: Option<Lookup>,
    pub(super) walked: Option<Walked>,
    pub(super) inserted: Option<(Tag, Span)>,
    /// For a guest, besides: what stage 2 alone did.
    pub(super) fetch: Fetch,
}

/// The look-up of its translation.
#[derive(Clone, Copy)]
pub(super) struct Lookup {
    pub(super) tag: Tag,
    pub(super) iova: u64,
    pub(super) hit: bool,
}

/// The leaf that a walk came to.
#[derive(Clone, Copy)]
pub(super) struct Walked {
    pub(super) level: u64,
    pub(super) phys: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

pub(super) struct Reader {
    regime: Regime,
    trace: Trace,
    commands: Commands,
    pub(super) tlb: Tlb,
    pub(super) open: Option<Open>,
    /// Index mask of the event queue, and how far the guest has read.
    faults: Option<(u64, u64)>,
}

impl Reader {
    /// Takes one line; `None` where it makes no sense.
    fn line(&mut self, line: usize, text: &str) -> Option<()> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        if INSIDE.contains(&name) {
            return Some(());
        }
        match name {
            "smmuv3_get_cd" => {
                self.open.as_mut()?.fetch.context = true;
                return Some(());
            }
            "smmu_iotlb_lookup_hit" | "smmu_iotlb_lookup_miss" => return self.lookup(name.ends_with("hit"), rest),
            "smmu_ptw_page_pte" | "smmu_ptw_block_pte" => return self.walked(name, rest),
            "smmu_iotlb_insert" => return self.insert(rest),
            "smmuv3_translate_success" => return self.success(line, rest),
            "smmuv3_translate_abort" => return self.abort(line, rest),
            "smmuv3_record_event" | "smmuv3_propagate_event" => return self.event(line, rest),
            // Neither is part of any access.
            _ if !name.starts_with("smmu") => return Some(()),
            _ => self.close(),
        }
        let what = match name {
            "smmuv3_config_cache_hit" | "smmuv3_config_cache_miss" => {
                let state = if name.ends_with("hit") { "HIT" } else { "MISS" };
                let pattern = format!("Config cache {state} for sid={{}} (hits={{}}, misses={{}}, hit rate={{}})");
                let [source, ..] = scan::<4>(rest, &pattern)?;
                let source = u32::try_from(source).ok()?;
                self.open =
                    Some(Open { line, source, lookup: None, walked: None, inserted: None, fetch: Fetch::default() });
                return Some(());
            }
            "smmuv3_translate_disable" => What::Access(Access::Odd("an access passed through a unit that was off")),
            "smmuv3_translate_bypass" => What::Access(Access::Odd("an access passed through untranslated")),
            "smmuv3_cmdq_consume" => {
                let [_, index, _, wrap] = scan(rest, "prod={} cons={} prod.wrap={} cons.wrap={}")?;
                self.reached(line, index, wrap)?;
                self.commands.begin();
                return Some(());
            }
            "smmuv3_cmdq_consume_out" => {
                let [_, index, _, wrap] = scan(rest, "prod:{}, cons:{}, prod_wrap:{}, cons_wrap:{}")?;
                return self.reached(line, index, wrap);
            }
            "smmuv3_cmdq_opcode" => {
                let command = rest.trim_end().strip_prefix("<--- SMMU_CMD_")?;
                return self.commands.name(command == "SYNC");
            }
            "smmuv3_cmdq_consume_error" => What::Setup(Setup::Trouble("a command was refused")),
            "smmuv3_unhandled_cmd" => What::Setup(Setup::Trouble("a command was ignored")),
            "smmuv3_write_gerror" => What::Setup(Setup::Trouble("a global error was raised")),
            "smmuv3_write_mmio" => {
                let [at, value, _, _] = scan(rest, "addr: {} val:{} size: {}({})")?;
                return self.register(line, at, value);
            }
            _ => return self.invalidation(line, name, rest),
        };
        self.push(line, what);
        Some(())
    }

    pub(super) fn push(&mut self, line: usize, what: What) {
        self.trace.events.push(Event { line, what });
    }

    fn problem(&mut self, line: usize, what: &str, text: &str) {
        let text = if text.is_empty() { String::new() } else { format!(": {text}") };
        self.trace.problems.push(format!("trace line {line}: {what}{text}"));
    }

    /// The unit stands at this place of its command queue.
    fn reached(&mut self, line: usize, index: u64, wrap: u64) -> Option<()> {
        if let Some(count) = self.commands.at(index, wrap)? {
            self.push(line, What::Wait(count));
        }
        Some(())
    }

    fn register(&mut self, line: usize, at: u64, value: u64) -> Option<()> {
        let what = match at {
            register::CR0 => What::Setup(Setup::Translation(value & 1 != 0)),
            register::STRTAB_BASE => What::Setup(Setup::Tables),
            register::CMDQ_BASE => {
                self.commands.start(value & 0x1f);
                What::Setup(Setup::Queue)
            }
            // Elsewhere than at the start the count would not be the driver's any more.
            register::CMDQ_CONS => return (value == 0).then_some(()),
            register::EVENTQ_BASE => {
                self.faults = Some(((2 << (value & 0x1f)) - 1, 0));
                What::Setup(Setup::Faults)
            }
            register::EVENTQ_CONS => {
                let (mask, taken) = self.faults?;
                self.faults = Some((mask, value & mask));
                match u32::try_from(value.wrapping_sub(taken) & mask).ok()? {
                    0 => return Some(()),
                    count => What::Taken(count),
                }
            }
            _ => return Some(()),
        };
        self.push(line, what);
        Some(())
    }

    fn lookup(&mut self, hit: bool, rest: &str) -> Option<()> {
        let state = if hit { "HIT" } else { "MISS" };
        let pattern = format!("IOTLB cache {state} asid={{i}} vmid={{i}} addr={{}} hit={{}} miss={{}} hit rate={{}}");
        let [asid, vmid, iova, _, _, _] = scan(rest, &pattern)?;
        let tag = Tag { asid, vmid };
        if self.regime == Regime::Nested && tag.is_stage_2() {
            return self.fetches(Lookup { tag, iova, hit });
        }
        let open = self.open.as_mut().filter(|open| open.lookup.is_none())?;
        open.lookup = Some(Lookup { tag, iova, hit });
        Some(())
    }

    /// A walk came to a leaf.
    fn walked(&mut self, name: &str, rest: &str) -> Option<()> {
        let [stage, level, iova, pte, phys] = if name == "smmu_ptw_page_pte" {
            let pattern = "stage={} level={} iova={} base@={} pte@={} pte={} page address = {}";
            let [stage, level, iova, _, _, pte, phys] = scan(rest, pattern)?;
            [stage, level, iova, pte, phys]
        } else {
            let pattern = "stage={} level={} base@={} pte@={} pte={} iova={} block address = {} block size = {} MiB";
            let [stage, level, _, _, pte, iova, phys, _] = scan(rest, pattern)?;
            [stage, level, iova, pte, phys]
        };
        // AP[2] makes it read-only; without AP[1] it is not for DMA.
        let first = (pte & 1 << 6 != 0, pte & 3 << 6 == 1 << 6);
        // S2AP.
        let second = (pte & 1 << 6 != 0, pte & 1 << 7 != 0);
        let (ours, (readable, writable)) = match self.regime {
            Regime::One(Stage::First) => (1, first),
            Regime::One(Stage::Second) => (2, second),
            // A walk of both is of a stage 3.
            Regime::Nested if stage == 3 => (3, first),
            Regime::Nested => {
                let (readable, writable) = second;
                let fits = stage == 2 && pte & ADDRESS == phys;
                return fits.then(|| self.walked_by_stage_2(iova, Walked { level, phys, readable, writable }))?;
            }
        };
        let open = self.open.as_mut().filter(|open| open.walked.is_none())?;
        let fits = stage == ours && open.lookup.as_ref()?.iova == iova && pte & ADDRESS == phys;
        fits.then(|| open.walked = Some(Walked { level, phys, readable, writable }))
    }

    fn insert(&mut self, rest: &str) -> Option<()> {
        let [asid, vmid, first, granule, level] = scan(rest, "IOTLB ++ asid={i} vmid={i} addr={} tg={} level={}")?;
        let (tag, block) = (Tag { asid, vmid }, block(first, granule, level)?);
        if self.regime == Regime::Nested {
            return self.inserted_of_guest(tag, block, level);
        }
        let open = self.open.as_mut().filter(|open| open.inserted.is_none())?;
        let Lookup { tag: looked_up, iova, hit } = open.lookup.as_ref()?;
        let fits = !hit
            && open.walked.as_ref()?.level == level
            && *looked_up == tag
            && block.first == first
            && (first..=block.last).contains(iova);
        fits.then(|| open.inserted = Some((tag, block)))
    }

    /// The access has found where it leads.
    fn success(&mut self, line: usize, rest: &str) -> Option<()> {
        let open = self.open.take()?;
        let pattern = "{w} sid={} iova={} translated={} perm={} stage={}";
        let [source, iova, phys, permissions, stage] = scan(rest, pattern)?;
        if self.regime == Regime::Nested {
            let shown = (permissions & 1 != 0, permissions & 2 != 0);
            return (u64::from(open.source) == source)
                .then(|| self.reached_memory(line, &open, (iova, phys), shown, stage))?;
        }
        let lookup = open.lookup?;
        let (readable, writable) = (permissions & 1 != 0, permissions & 2 != 0);
        let entry = match (open.inserted, open.walked) {
            (Some((tag, block)), Some(walked)) => {
                let fits = (walked.readable, walked.writable) == (readable, writable)
                    && walked.phys.wrapping_add(iova.wrapping_sub(block.first)) == phys;
                fits.then_some(Entry {
                    tag,
                    block,
                    phys: walked.phys,
                    readable,
                    writable,
                    shown: (readable, writable),
                })?
            }
            (None, None) if lookup.hit => self.tlb.find(lookup.tag, iova, Some(phys))?,
            _ => return None,
        };
        let ours = if self.regime == Regime::One(Stage::First) { 1 } else { 2 };
        let domain = entry.tag.domain(self.regime)?;
        let fits = u64::from(open.source) == source
            && lookup.iova == iova
            && stage == ours
            && (entry.readable, entry.writable) == (readable, writable);
        fits.then_some(())?;
        if !lookup.hit {
            self.tlb.insert(entry);
        }
        let found = translation(open.source, iova, entry, domain, lookup.hit);
        self.push(line, What::Access(Access::Translated(found)));
        Some(())
    }

    /// The access was aborted, as the stream's entry says.
    fn abort(&mut self, line: usize, rest: &str) -> Option<()> {
        let pattern = "{w} sid={} abort on iova:{} is_write={}";
        let [source, address, _] = scan(rest, pattern)?;
        let source = u32::try_from(source).ok()?;
        let access = match self.open.take() {
            Some(open) => {
                (open.source == source && open.lookup.is_none()).then_some(())?;
                let address = Some(address);
                Access::Refused(Refusal { source, address, code: None, direction: None, domain: None, fetch: false })
            }
            None => Access::Odd("an access aborted by a unit that was off"),
        };
        self.push(line, What::Access(access));
        Some(())
    }

    /// The access was refused with an event.
    fn event(&mut self, line: usize, rest: &str) -> Option<()> {
        let open = self.open.take()?;
        let (name, rest) = rest.strip_prefix("SMMU_EVT_")?.split_once(' ')?;
        let (_, code) = REASONS.iter().find(|(reason, _)| *reason == name)?;
        let [source] = scan(rest, "sid={}")?;
        (u64::from(open.source) == source && open.inserted.is_none()).then_some(())?;
        let mut refusal = Refusal {
            source: open.source,
            address: None,
            code: Some(*code),
            direction: None,
            domain: None,
            fetch: false,
        };
        let about_access = self.regime != Regime::Nested || *code >= FIRST_OF_ACCESS;
        if let Some(lookup) = open.fetch.refused(&open).filter(|_| about_access) {
            refusal.domain = Some(lookup.tag.domain(self.regime)?);
            refusal.fetch = open.fetch.context;
            refusal.address = (!refusal.fetch).then_some(lookup.iova);
        } else if let Some(Lookup { tag, iova, hit }) = open.lookup.filter(|_| about_access) {
            refusal.address = Some(iova);
            refusal.domain = Some(tag.domain(self.regime)?);
            let entry = if hit { Some(self.tlb.find(tag, iova, None)?) } else { None };
            let permits = entry.map(|entry| (entry.readable, entry.writable));
            let permits = permits.or(open.walked.map(|walked| open.fetch.permits(walked)));
            // It takes an entry to lack a permission.
            (*code != PERMISSION || permits.is_some()).then_some(())?;
            refusal.direction = permits.and_then(|(readable, writable)| lacking(readable, writable));
        }
        self.push(line, What::Access(Access::Refused(refusal)));
        Some(())
    }

    /// Nothing more comes of the access at hand: it was dropped in silence, at best by a cached entry.
    fn close(&mut self) {
        let Some(Open { line, source, lookup, .. }) = self.open.take() else { return };
        let cached = lookup.filter(|lookup| lookup.hit).and_then(|Lookup { tag, iova, .. }| {
            let entry = self.tlb.find(tag, iova, None)?;
            let (address, domain) = (Some(iova), Some(tag.domain(self.regime)?));
            let direction = lacking(entry.readable, entry.writable);
            Some(Refusal { source, address, code: None, direction, domain, fetch: false })
        });
        let access = cached.map_or(Access::Odd("an access that came to nothing"), Access::Refused);
        self.push(line, What::Access(access));
    }

    /// Something to forget; every other line is of no matter.
    fn invalidation(&mut self, line: usize, name: &str, rest: &str) -> Option<()> {
        let id = |pattern| scan::<1>(rest, pattern).and_then(|[id]| u32::try_from(id).ok());
        let tlb = |domains, stage, range| Invalidation::Tlb { domains, stage, range, pasid: None };
        let mut also = None;
        let nested = self.regime == Regime::Nested;
        let invalidation = match name {
            "smmuv3_cmdq_cfgi_ste" => {
                Invalidation::StreamCache { id: id("streamid= {}")?, ignored: 0, domains: Domains::All }
            }
            "smmuv3_cmdq_cfgi_ste_range" => {
                let [first, last] = scan(rest, "start={} - end={}")?;
                let (id, ignored) = (u32::try_from(first).ok()?, u32::try_from(last.checked_sub(first)?).ok()?);
                (ignored & ignored.wrapping_add(1) == 0 && id & ignored == 0).then_some(())?;
                // Of all streams it is CMD_CFGI_ALL, which is about descriptors as well.
                also = (ignored == u32::MAX).then_some(Invalidation::PasidCacheOf { id, ignored });
                Invalidation::StreamCache { id, ignored, domains: Domains::All }
            }
            "smmuv3_cmdq_cfgi_cd" => Invalidation::PasidCacheOf { id: id("sid={}")?, ignored: 0 },
            "smmu_iotlb_inv_all" => tlb(Domains::All, None, None),
            "smmu_iotlb_inv_asid_vmid" => {
                let [asid, vmid] = scan(rest, "IOTLB invalidate asid={i} vmid={i}")?;
                let tag = Tag { asid, vmid };
                match if nested { self.of_guest(tag) } else { tag.domain(Regime::One(Stage::First)) } {
                    Some(domain) => tlb(Domains::One(domain), Some(Stage::First), None),
                    None => return Some(()),
                }
            }
            // Of both stages. All domains of stage 1 are under VMID 0.
            "smmu_iotlb_inv_vmid" => {
                let [vmid] = scan(rest, "IOTLB invalidate vmid={i}")?;
                if nested {
                    self.push(line, What::Invalidation(tlb(Domains::One(u16::try_from(vmid).ok()?), None, None)));
                    return Some(());
                }
                also = (vmid == 0).then_some(tlb(Domains::All, Some(Stage::First), None));
                tlb(Domains::One(u16::try_from(vmid).ok()?), Some(Stage::Second), None)
            }
            "smmu_iotlb_inv_vmid_s1" => {
                let [vmid] = scan(rest, "IOTLB invalidate vmid={i}")?;
                if nested {
                    let domains = Domains::One(u16::try_from(vmid).ok()?);
                    self.push(line, What::Invalidation(tlb(domains, Some(Stage::First), None)));
                    return Some(());
                }
                if vmid != 0 {
                    return Some(());
                }
                tlb(Domains::All, Some(Stage::First), None)
            }
            "smmuv3_range_inval" => match self.range_invalidation(rest)? {
                Some(invalidation) => invalidation,
                None => return Some(()),
            },
            _ => return Some(()),
        };
        self.push(line, What::Invalidation(invalidation));
        if let Some(also) = also {
            self.push(line, What::Invalidation(also));
        }
        Some(())
    }

    /// CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA and CMD_TLBI_S2_IPA, in range form or not; `Some(None)` for one that reaches no
    /// domain of ours.
    fn range_invalidation(&self, rest: &str) -> Option<Option<Invalidation>> {
        let pattern = "vmid={i} asid={i} addr={} tg={} num_pages={} ttl={} leaf={} stage={}";
        let [vmid, asid, first, granule, pages, _, _, stage] = scan(rest, pattern)?;
        // Without a range: whatever maps this address, a page at least.
        let bits = if granule == 0 { 12 } else { page_bits(granule)? };
        let start = first & !((1 << bits) - 1);
        let range = Some(Span::from_len(start, pages.checked_mul(1 << bits)?)?);
        let tag = Tag { asid, vmid };
        let domains = match (stage, asid, self.regime) {
            (1, u64::MAX, Regime::Nested) => Some(Domains::One(u16::try_from(vmid).ok()?)),
            (1, u64::MAX, _) => (vmid == 0).then_some(Domains::All),
            (1, _, Regime::Nested) => self.of_guest(tag).map(Domains::One),
            (1, _, _) => tag.domain(Regime::One(Stage::First)).map(Domains::One),
            (2, _, _) => Some(Domains::One(u16::try_from(vmid).ok()?)),
            _ => return None,
        };
        let stage = Some(if stage == 1 { Stage::First } else { Stage::Second });
        Some(domains.map(|domains| Invalidation::Tlb { domains, stage, range, pasid: None }))
    }

    /// The domain under which a guest has anything of this ASID.
    fn of_guest(&self, tag: Tag) -> Option<u16> {
        tag.domain(Regime::Nested).filter(|_| self.tlb.knows(tag))
    }
}

/// What an entry does not let through, where that is one of the two.
fn lacking(readable: bool, writable: bool) -> Option<Direction> {
    match (readable, writable) {
        (true, false) => Some(Direction::Write),
        (false, true) => Some(Direction::Read),
        _ => None,
    }
}

pub(super) fn translation(source: u32, iova: u64, entry: Entry, domain: u16, cached: bool) -> Translation {
    let Entry { block, phys, readable, writable, .. } = entry;
    Translation { source, iova, block, phys, domain, readable, writable, cached }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
