//! One request, from stream id to memory, through whatever the view keeps in caches.

use super::page::{self, Leaf, Stage1, Stage2};
use super::stream::{self, Kind};
use super::{Class, Config, FaultCode, Read64, Refused, Tables, context};
use iommu_core::addr::PhysAddr;

/// What tags a translation in the TLB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::smmuv3) enum Regime {
    /// Stage 1, whatever stage 2 adds.
    First {
        el2: bool,
        vmid: u16,
        /// `None` for a global entry.
        asid: Option<u16>,
    },
    /// Stage 2.
    Second { vmid: u16 },
}

/// Reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Rights {
    pub(in crate::smmuv3) read: bool,
    pub(in crate::smmuv3) write: bool,
}

impl Rights {
    const ALL: Self = Self { read: true, write: true };

    const fn allow(self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }
}

/// A translation as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Entry {
    /// What stage 1 gives for its first byte.
    pub(in crate::smmuv3) ipa: u64,
    pub(in crate::smmuv3) phys: u64,
    pub(in crate::smmuv3) size: u64,
    /// Level of the leaf.
    pub(in crate::smmuv3) level: u8,
    pub(in crate::smmuv3) first: Rights,
    pub(in crate::smmuv3) second: Rights,
}

impl Entry {
    pub(in crate::smmuv3) const fn rights(&self) -> Rights {
        Rights { read: self.first.read && self.second.read, write: self.first.write && self.second.write }
    }
}

/// Where words come from, and what is kept of them. Whatever is not overridden is not kept.
pub(in crate::smmuv3) trait View {
    /// 8 bytes of memory.
    fn word(&mut self, phys: u64) -> Option<u64>;

    /// The level-1 stream table descriptor number `index`.
    fn level1(&mut self, _index: u32, phys: u64) -> Option<u64> {
        self.word(phys)
    }

    /// A STE that was kept.
    fn ste(&mut self, _sid: u32) -> Option<[u64; 8]> {
        None
    }

    fn keep_ste(&mut self, _sid: u32, _words: &[u64; 8]) {}

    /// A CD that was kept.
    fn cd(&mut self, _sid: u32, _ssid: u32) -> Option<[u64; 8]> {
        None
    }

    fn keep_cd(&mut self, _sid: u32, _ssid: u32, _words: &[u64; 8]) {}

    /// A descriptor for `input` that leads to a table.
    fn step(&mut self, _regime: Regime, _level: u8, _input: u64) -> Option<u64> {
        None
    }

    fn keep_step(&mut self, _regime: Regime, _level: u8, _input: u64, _descriptor: u64) {}

    /// A translation of `input`, global ones included.
    fn entry(&mut self, _regime: Regime, _input: u64) -> Option<Entry> {
        None
    }

    fn keep_entry(&mut self, _regime: Regime, _input: u64, _entry: Entry) {}
}

/// Memory, and nothing kept.
pub(super) struct Plain<'a>(pub(super) Read64<'a>);

impl View for Plain<'_> {
    fn word(&mut self, phys: u64) -> Option<u64> {
        (self.0)(PhysAddr::new(phys))
    }
}

/// Where a request goes.
pub(in crate::smmuv3) struct Found {
    pub(in crate::smmuv3) entry: Entry,
    /// `None` in bypass.
    pub(in crate::smmuv3) regime: Option<Regime>,
}

impl From<FaultCode> for Refused {
    fn from(code: FaultCode) -> Self {
        Self::by(code)
    }
}

/// Translates one request.
pub(in crate::smmuv3) fn request(
    view: &mut dyn View,
    config: &Config,
    tables: Tables,
    sid: u32,
    ssid: Option<u32>,
    iova: u64,
    write: bool,
) -> Result<Found, Refused> {
    let ste = stream::ste(view, config, tables, sid)?;
    let kind = stream::kind(config, &ste)?;
    // STE.MEV, from here on.
    let merges = ste[1] >> 19 & 1 != 0;
    with(view, config, &ste, kind, (sid, ssid), iova, write).map_err(|refused| Refused { merges, ..refused })
}

/// Translates one request by a STE that is valid.
fn with(
    view: &mut dyn View,
    config: &Config,
    ste: &stream::Ste,
    kind: Kind,
    (sid, ssid): (u32, Option<u32>),
    iova: u64,
    write: bool,
) -> Result<Found, Refused> {
    let (first, second) = match kind {
        Kind::Abort => return Err(Refused::by(FaultCode::NONE)),
        Kind::Bypass => return bypass(config, iova),
        Kind::Translate { first, second } => (first, second),
    };
    let ssid = if first { context::select(ste, ssid)? } else { None };
    let Some(ssid) = ssid else {
        let Some(stage2) = second else { return bypass(config, iova) };
        // Stage 1 is bypassed: its output must be an address that stage 2 could take at all.
        if iova >> config.output_bits() != 0 {
            return Err(Refused { policy: stage2.policy, ..Refused::by(FaultCode::F_ADDR_SIZE) });
        }
        let entry = second_stage(view, &stage2, iova, write, Class::Input)?;
        return Ok(Found { entry, regime: Some(Regime::Second { vmid: stage2.vmid }) });
    };
    let mut locate = |view: &mut dyn View, at: u64| match &second {
        None => Ok(at),
        Some(stage2) => {
            let entry = second_stage(view, stage2, at, false, Class::Cd)?;
            Ok(entry.phys + (at & (entry.size - 1)))
        }
    };
    let cd = match view.cd(sid, ssid) {
        Some(cd) => cd,
        None => {
            let cd = context::fetch(view, ste, ssid, &mut locate)?;
            view.keep_cd(sid, ssid, &cd);
            cd
        }
    };
    let stage1 = context::check(config, ste, &cd, second.is_some())?;
    // Without stage 2 in the unit there are no VMIDs; with it they tag stage 1 alone as well, but not EL2.
    let vmid = if config.has(Config::S2P) && !stage1.el2 { ste[2] as u16 } else { 0 };
    first_stage(view, &stage1, second.as_ref(), vmid, iova, write)
}

fn bypass(config: &Config, iova: u64) -> Result<Found, Refused> {
    if iova >> config.output_bits() != 0 {
        return Err(Refused::by(FaultCode::F_ADDR_SIZE));
    }
    let page = iova & !0xfff;
    let entry = Entry { ipa: page, phys: page, size: 0x1000, level: 3, first: Rights::ALL, second: Rights::ALL };
    Ok(Found { entry, regime: None })
}

/// Translates by stage 1, and by stage 2 where there is one.
fn first_stage(
    view: &mut dyn View,
    stage1: &Stage1,
    second: Option<&Stage2>,
    vmid: u16,
    iova: u64,
    write: bool,
) -> Result<Found, Refused> {
    let refused = |code| Refused { policy: stage1.policy, ..Refused::by(code) };
    let half = stage1.half(iova).ok_or(refused(FaultCode::F_TRANSLATION))?;
    // EL2 without E2H has no ASIDs.
    let asid = (!stage1.el2).then_some(stage1.asid);
    let regime = Regime::First { el2: stage1.el2, vmid, asid };
    let entry = match view.entry(regime, iova) {
        Some(entry) => entry,
        None => {
            let read = |level: u8, at: u64| {
                if let Some(descriptor) = view.step(regime, level, iova) {
                    return Ok(descriptor);
                }
                let phys = match second {
                    None => at,
                    Some(stage2) => {
                        let entry = second_stage(view, stage2, at, false, Class::Table)?;
                        entry.phys + (at & (entry.size - 1))
                    }
                };
                let abort = Refused { class: Class::Table, ..Refused::fetching(FaultCode::F_WALK_EABT, phys) };
                let descriptor = view.word(phys).ok_or(Refused { policy: stage1.policy, ..abort })?;
                if level < 3 && descriptor & 3 == 3 {
                    view.keep_step(regime, level, iova, descriptor);
                }
                Ok(descriptor)
            };
            let leaf = page::walk(half.table, half.level, half.input_bits, stage1.output_bits, iova, read).map_err(
                |fault: Refused| if fault.second { fault } else { Refused { policy: stage1.policy, ..fault } },
            )?;
            if leaf.descriptor >> 10 & 1 == 0 && !stage1.no_access_flag {
                return Err(refused(FaultCode::F_ACCESS));
            }
            let rights = first_rights(stage1, &leaf, half.flat);
            // nG clear: for every ASID.
            let regime = match regime {
                Regime::First { el2, vmid, .. } if leaf.descriptor >> 11 & 1 == 0 => {
                    Regime::First { el2, vmid, asid: None }
                }
                other => other,
            };
            let size = leaf.size();
            let mut entry = Entry {
                ipa: leaf.output,
                phys: leaf.output,
                size,
                level: leaf.level,
                first: rights,
                second: Rights::ALL,
            };
            if second.is_some() && !rights.allow(write) {
                return Err(refused(FaultCode::F_PERMISSION));
            }
            if let Some(stage2) = second {
                let ipa = leaf.output + (iova & (size - 1));
                // Kept with the rights of both; what stage 2 forbids is refused below.
                let below = second_entry(view, stage2, ipa, Class::Input)?;
                entry.size = size.min(below.size);
                entry.ipa = ipa & !(entry.size - 1);
                entry.phys = below.phys + (entry.ipa & (below.size - 1));
                entry.second = below.second;
            }
            view.keep_entry(regime, iova, entry);
            entry
        }
    };
    if !entry.first.allow(write) {
        return Err(refused(FaultCode::F_PERMISSION));
    }
    if let Some(stage2) = second
        && !entry.second.allow(write)
    {
        let ipa = entry.ipa + (iova & (entry.size - 1));
        return Err(refused_by_second(stage2, FaultCode::F_PERMISSION, ipa, Class::Input));
    }
    Ok(Found { entry, regime: Some(regime) })
}

/// AP[2:1] of the leaf and APTable of the tables.
fn first_rights(stage1: &Stage1, leaf: &Leaf, flat: bool) -> Rights {
    let tables = if flat { 0 } else { leaf.forbidden };
    let read_only = leaf.descriptor >> 7 & 1 != 0 || tables >> 62 & 1 != 0;
    let user = leaf.descriptor >> 6 & 1 != 0 && tables >> 61 & 1 == 0;
    let read = stage1.privileged || user;
    Rights { read, write: read && !read_only }
}

fn refused_by_second(stage2: &Stage2, code: FaultCode, ipa: u64, class: Class) -> Refused {
    Refused { second: true, class, ipa, policy: stage2.policy, ..Refused::by(code) }
}

/// Translates `ipa` by stage 2 and checks the access.
fn second_stage(view: &mut dyn View, stage2: &Stage2, ipa: u64, write: bool, class: Class) -> Result<Entry, Refused> {
    let entry = second_entry(view, stage2, ipa, class)?;
    if entry.second.allow(write) {
        Ok(entry)
    } else {
        Err(refused_by_second(stage2, FaultCode::F_PERMISSION, ipa, class))
    }
}

/// The entry of stage 2 for `ipa`.
fn second_entry(view: &mut dyn View, stage2: &Stage2, ipa: u64, class: Class) -> Result<Entry, Refused> {
    let refused = |code| refused_by_second(stage2, code, ipa, class);
    let regime = Regime::Second { vmid: stage2.vmid };
    if ipa >> stage2.input_bits != 0 {
        return Err(refused(FaultCode::F_TRANSLATION));
    }
    if let Some(entry) = view.entry(regime, ipa) {
        return Ok(entry);
    }
    let read = |level: u8, at: u64| {
        if let Some(descriptor) = view.step(regime, level, ipa) {
            return Ok(descriptor);
        }
        let descriptor = view.word(at).ok_or(Refused { fetch: at, ..refused(FaultCode::F_WALK_EABT) })?;
        if level < 3 && descriptor & 3 == 3 {
            view.keep_step(regime, level, ipa, descriptor);
        }
        Ok(descriptor)
    };
    let leaf = page::walk(stage2.table, stage2.level, stage2.input_bits, stage2.output_bits, ipa, read)
        .map_err(|fault: Refused| Refused { fetch: fault.fetch, ..refused(fault.code) })?;
    if leaf.descriptor >> 10 & 1 == 0 && !stage2.no_access_flag {
        return Err(refused(FaultCode::F_ACCESS));
    }
    let rights = Rights { read: leaf.descriptor >> 6 & 1 != 0, write: leaf.descriptor >> 7 & 1 != 0 };
    let first = ipa & !(leaf.size() - 1);
    let entry = Entry {
        ipa: first,
        phys: leaf.output,
        size: leaf.size(),
        level: leaf.level,
        first: Rights::ALL,
        second: rights,
    };
    view.keep_entry(regime, ipa, entry);
    Ok(entry)
}
