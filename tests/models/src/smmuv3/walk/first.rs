//! Stage 1, alone or through stage 2.

use super::page::{self, ACCESSED, Cursor, Host, Leaf, MODIFIER, Stage1, Stage2, Steps, Tables, WRITE};
use super::request::{Entry, Found, Regime, Rights, Stop};
use super::second::{self, Asked};
use super::view::{Stage, fetch_one};
use super::{Class, FaultCode, Refused, Structure, View};
use crate::smmuv3::Violation;

impl Stage1 {
    fn refuse(&self, code: FaultCode) -> Refused {
        Refused { policy: self.policy, ..Refused::by(code) }
    }

    /// No memory at a descriptor: nothing of section 5.5, so always recorded.
    const fn abort(phys: u64) -> Refused {
        Refused { class: Class::Table, ..Refused::fetching(FaultCode::F_WALK_EABT, phys) }
    }

    /// AP[2:1] and DBM of a descriptor and APTable of the tables above.
    fn rights(&self, descriptor: u64, forbidden: u64, flat: bool) -> Rights {
        let tables = if flat { 0 } else { forbidden };
        let read_only = descriptor & WRITE != 0;
        let user = descriptor >> 6 & 1 != 0 && tables >> 61 & 1 == 0;
        let read = self.privileged || user;
        let may = read && tables >> 62 & 1 == 0;
        let clean = self.flags.dirty && read_only && descriptor & MODIFIER != 0;
        Rights { read, write: may && !read_only, clean: may && clean }
    }
}

/// Translates a request by stage 1, and by stage 2 where there is one. `vmid` tags both.
pub(super) fn translate(
    view: &mut dyn View,
    stage1: &Stage1,
    stage2: Option<&Stage2>,
    vmid: u16,
    iova: u64,
    write: bool,
) -> Result<Found, Stop> {
    let (half, input) = stage1.half(iova).ok_or(stage1.refuse(FaultCode::F_TRANSLATION))?;
    // EL2 without E2H has no ASIDs.
    let asid = (!stage1.el2).then_some(stage1.asid);
    let regime = Regime::First { el2: stage1.el2, vmid, asid };
    let found = |entry| Found { entry, input, regime: Some(regime) };
    if let Some(entry) = view.entry(regime, input) {
        if entry.rights().allow(write) {
            return Ok(found(entry));
        }
        if !entry.first.could(write) {
            return Err(stage1.refuse(FaultCode::F_PERMISSION).into());
        }
        if let Some(stage2) = stage2
            && !entry.second.could(write)
        {
            let ipa = entry.ipa + (input & entry.mask());
            return Err(stage2.refuse(Asked { ipa, write, class: Class::Input }, FaultCode::F_PERMISSION).into());
        }
        // A leaf is to be made dirty: walked anew.
    }
    if stage1.flags.accessed && !stage1.flags.snooped {
        view.note(Violation::UpdatesNotSnooped { second: false });
    }
    let start = view.cursor(regime, half.granule, input);
    let mut reading = Reading { view: &mut *view, stage1, stage2, half, regime, input, changed: false };
    let leaf = page::walk(&half, start, input, &mut reading);
    if reading.changed {
        return Err(Stop::Changed);
    }
    let leaf = leaf?;
    let (rights, new) = access(stage1, &half, &leaf, write)?;
    let bits = second::group(view, &leaf, stage1.flags.dirty, input);
    let (ipa, size) = (leaf.output >> bits << bits | input & ((1 << bits) - 1), bits);
    // nG clear: for every ASID.
    let tag = match regime {
        Regime::First { el2, vmid, .. } if leaf.descriptor >> 11 & 1 == 0 => Regime::First { el2, vmid, asid: None },
        other => other,
    };
    if !rights.allow(write) {
        // The translation of a refused access may be kept as well, where its access flag is set.
        if stage2.is_none() && new == leaf.descriptor && !leaf.is_unkept() {
            view.keep_entry(tag, input, one(ipa, bits, &leaf, rights));
        }
        return Err(stage1.refuse(FaultCode::F_PERMISSION).into());
    }
    let asked = Asked { ipa, write, class: Class::Input };
    if let Some(stage2) = stage2 {
        // Whether stage 2 lets it through comes before anything is written.
        second::translate(view, stage2, asked, new != leaf.descriptor)?;
    }
    if new != leaf.descriptor {
        update(view, stage2, regime, input, &leaf, new)?;
    }
    let entry = match stage2 {
        None => one(ipa, bits, &leaf, rights),
        Some(stage2) => {
            // Kept with the rights of both.
            let below = second::translate(view, stage2, asked, false)?;
            let bits = size.min(below.bits);
            let phys = below.phys + (ipa & below.mask());
            let both = Entry { second: below.second, device: below.device, ..one(ipa, bits, &leaf, rights) };
            Entry { phys: phys >> bits << bits, reach: size, ..both }
        }
    };
    if !leaf.is_unkept() {
        view.keep_entry(tag, input, entry);
    }
    Ok(found(entry))
}

fn one(ipa: u64, bits: u32, leaf: &Leaf, first: Rights) -> Entry {
    let ipa = ipa >> bits << bits;
    let (level, granule) = (leaf.level, leaf.granule);
    Entry { ipa, phys: ipa, bits, reach: bits, level, granule, first, second: Rights::ALL, device: false }
}

/// The rights that a leaf gives, and what its descriptor becomes, once the access is let through.
fn access(stage1: &Stage1, half: &Tables, leaf: &Leaf, write: bool) -> Result<(Rights, u64), Refused> {
    let mut new = leaf.descriptor;
    if new & ACCESSED == 0 {
        if stage1.flags.accessed {
            new |= ACCESSED;
        } else if !stage1.flags.ignored {
            return Err(stage1.refuse(FaultCode::F_ACCESS));
        }
    }
    let rights = stage1.rights(new, leaf.forbidden, half.flat);
    if rights.allow(write) || !rights.could(write) {
        return Ok((rights, new));
    }
    new &= !WRITE;
    Ok((stage1.rights(new, leaf.forbidden, half.flat), new))
}

/// Writes accessed and dirty flags of a leaf, which stage 2 must let be written.
fn update(
    view: &mut dyn View,
    stage2: Option<&Stage2>,
    regime: Regime,
    input: u64,
    leaf: &Leaf,
    new: u64,
) -> Result<(), Stop> {
    let mut phys = leaf.phys;
    if let Some(stage2) = stage2
        && !view.host(regime, leaf.granule, leaf.level, input).is_some_and(|host| host.write)
    {
        let asked = Asked { ipa: leaf.at, write: true, class: Class::Table };
        let entry = second::translate(view, stage2, asked, false)?;
        phys = entry.phys + (leaf.at & entry.mask());
        keep_host(view, regime, leaf.granule, leaf.level, input, phys, &entry);
    }
    let changed = view.update(phys, leaf.descriptor, new).ok_or(Stage1::abort(phys))?;
    changed.map_err(|_| Stop::Changed)
}

fn keep_host(
    view: &mut dyn View,
    regime: Regime,
    granule: super::Granule,
    level: u8,
    input: u64,
    phys: u64,
    entry: &Entry,
) {
    let host = Host { phys: phys & !0xfff, write: entry.second.write };
    view.keep_host(regime, granule, level, input, host);
}

/// A walk of stage 1.
struct Reading<'a> {
    view: &'a mut dyn View,
    stage1: &'a Stage1,
    stage2: Option<&'a Stage2>,
    half: Tables,
    regime: Regime,
    input: u64,
    /// A leaf of stage 2 changed under an update.
    changed: bool,
}

impl Steps for Reading<'_> {
    fn read(&mut self, level: u8, at: u64) -> Result<(u64, u64), Refused> {
        let (regime, granule, input) = (self.regime, self.half.granule, self.input);
        let phys = match self.stage2 {
            None => at,
            Some(stage2) => match self.view.host(regime, granule, level, input) {
                Some(host) => host.phys | at & 0xfff,
                None => {
                    let asked = Asked { ipa: at, write: false, class: Class::Table };
                    let entry = match second::translate(self.view, stage2, asked, false) {
                        Ok(entry) => entry,
                        Err(Stop::Refused(refused)) => return Err(refused),
                        Err(Stop::Changed) => {
                            self.changed = true;
                            return Err(self.refuse(FaultCode::F_TRANSLATION));
                        }
                    };
                    let phys = entry.phys + (at & entry.mask());
                    keep_host(self.view, regime, granule, level, input, phys, &entry);
                    phys
                }
            },
        };
        let descriptor = fetch_one(self.view, Structure::Table(Stage::First), phys).ok_or(Stage1::abort(phys))?;
        Ok((descriptor, phys))
    }

    fn lead(&mut self, level: u8, next: Cursor) {
        self.view.keep_cursor(self.regime, self.half.granule, level, self.input, next);
    }

    fn refuse(&self, code: FaultCode) -> Refused {
        self.stage1.refuse(code)
    }
}
