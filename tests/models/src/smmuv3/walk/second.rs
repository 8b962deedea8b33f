//! Stage 2: of requests, and of all that stage 1 fetches.

use super::page::{self, ACCESSED, Cursor, Leaf, MODIFIER, Stage2, Steps, WRITE};
use super::request::{Entry, Regime, Rights, Stop};
use super::view::{Stage, fetch_one};
use super::{Class, FaultCode, Granule, Policy, Refused, Structure, View};
use crate::smmuv3::Violation;

/// What is asked of stage 2.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) ipa: u64,
    pub(super) write: bool,
    pub(super) class: Class,
}

impl Stage2 {
    pub(super) fn refuse(&self, asked: Asked, code: FaultCode) -> Refused {
        let Asked { ipa, write, class } = asked;
        let table_write = write && class == Class::Table;
        // What is not of section 5.5 is always recorded, and never waits.
        let policy = if code == FaultCode::F_WALK_EABT { Policy::NONE } else { self.policy };
        Refused { second: true, class, ipa, table_write, policy, ..Refused::by(code) }
    }

    pub(super) const fn regime(&self) -> Regime {
        Regime::Second { vmid: self.vmid }
    }

    /// Whether an entry lets the access through, and if it does not, whether it could once its leaf is dirty.
    fn admit(&self, asked: Asked, entry: &Entry) -> Result<bool, Refused> {
        let protected = self.protected && entry.device && asked.class != Class::Input;
        if protected || !entry.second.could(asked.write) {
            return Err(self.refuse(asked, FaultCode::F_PERMISSION));
        }
        Ok(entry.second.allow(asked.write))
    }

    /// Device memory.
    const fn is_device(&self, descriptor: u64) -> bool {
        if self.forced { descriptor >> 4 & 1 == 0 } else { descriptor >> 4 & 3 == 0 }
    }
}

/// Translates and checks an access. With `dry` nothing is written and nothing is kept.
pub(super) fn translate(view: &mut dyn View, stage2: &Stage2, asked: Asked, dry: bool) -> Result<Entry, Stop> {
    let regime = stage2.regime();
    let tables = &stage2.tables;
    if asked.ipa >> tables.input_bits != 0 {
        return Err(stage2.refuse(asked, FaultCode::F_TRANSLATION).into());
    }
    if let Some(entry) = view.entry(regime, asked.ipa)
        && stage2.admit(asked, &entry)?
    {
        return Ok(entry);
    }
    if stage2.flags.accessed && !stage2.flags.snooped {
        view.note(Violation::UpdatesNotSnooped { second: true });
    }
    let start = view.cursor(regime, tables.granule, asked.ipa);
    let mut reading = Reading { view: &mut *view, stage2, asked, granule: tables.granule, dry };
    let leaf = page::walk(tables, start, asked.ipa, &mut reading)?;
    let (entry, new) = found(view, stage2, asked, &leaf)?;
    // The translation of a refused access may be kept as well, where its access flag is set.
    let admitted = stage2.admit(asked, &entry);
    let keeps = !dry && !leaf.is_unkept();
    if admitted.is_err() && keeps && (leaf.descriptor ^ new) & ACCESSED == 0 {
        view.keep_entry(regime, asked.ipa, entry);
    }
    admitted?;
    if dry {
        return Ok(entry);
    }
    if new != leaf.descriptor {
        let abort = Refused { fetch: leaf.phys, ..stage2.refuse(asked, FaultCode::F_WALK_EABT) };
        view.update(leaf.phys, leaf.descriptor, new).ok_or(abort)?.map_err(|_| Stop::Changed)?;
    }
    if keeps {
        view.keep_entry(regime, asked.ipa, entry);
    }
    Ok(entry)
}

/// What a leaf gives, and what its descriptor becomes by the access.
fn found(view: &mut dyn View, stage2: &Stage2, asked: Asked, leaf: &Leaf) -> Result<(Entry, u64), Stop> {
    let flags = stage2.flags;
    let mut descriptor = leaf.descriptor;
    if descriptor & ACCESSED == 0 {
        if flags.accessed {
            descriptor |= ACCESSED;
        } else if !flags.ignored {
            return Err(stage2.refuse(asked, FaultCode::F_ACCESS).into());
        }
    }
    let clean = flags.dirty && descriptor & (MODIFIER | WRITE) == MODIFIER;
    if clean && asked.write {
        descriptor |= WRITE;
    }
    let write = descriptor & WRITE != 0;
    let second = Rights { read: descriptor >> 6 & 1 != 0, write, clean: clean && !write };
    let bits = group(view, leaf, flags.dirty, asked.ipa);
    let first = asked.ipa >> bits << bits;
    let entry = Entry {
        ipa: first,
        phys: leaf.output >> bits << bits,
        bits,
        reach: bits,
        level: leaf.level,
        granule: leaf.granule,
        first: Rights::ALL,
        second,
        device: stage2.is_device(descriptor),
    };
    Ok((entry, descriptor))
}

/// log2 of what is kept as one for a leaf: what it maps, or its contiguous group. Leaves of a group that do not agree are
/// noted.
pub(super) fn group(view: &mut dyn View, leaf: &Leaf, dirty: bool, input: u64) -> u32 {
    let log2 = leaf.group();
    if !leaf.is_contiguous() || !view.groups() {
        return leaf.bits();
    }
    // Where the group starts: its leaves in the table, and what they map.
    let before = leaf.index & ((1 << log2) - 1);
    let (table, output) = (leaf.phys - before * 8, leaf.output >> (leaf.bits() + log2) << (leaf.bits() + log2));
    // Access flags may differ; so may write permission, where hardware gives it.
    let flags = ACCESSED | if dirty { WRITE } else { 0 } | if view.groups_may_differ() { page::CONTIGUOUS } else { 0 };
    let alike = leaf.descriptor & !(page::ADDRESS >> leaf.bits() << leaf.bits());
    for turn in 0..1 << log2 {
        // One that is not valid may become so: groups are built leaf by leaf.
        let Some(other) = view.word(table + turn * 8).filter(|other| other & 1 != 0) else { continue };
        if (other ^ (alike | output | turn << leaf.bits())) & !flags != 0 {
            view.note(Violation::Contiguous { iova: input });
            break;
        }
    }
    leaf.bits() + log2
}

/// A walk of stage 2.
struct Reading<'a> {
    view: &'a mut dyn View,
    stage2: &'a Stage2,
    asked: Asked,
    granule: Granule,
    dry: bool,
}

impl Steps for Reading<'_> {
    fn read(&mut self, _level: u8, at: u64) -> Result<(u64, u64), Refused> {
        let abort = Refused { fetch: at, ..self.stage2.refuse(self.asked, FaultCode::F_WALK_EABT) };
        let descriptor = fetch_one(self.view, Structure::Table(Stage::Second), at).ok_or(abort)?;
        Ok((descriptor, at))
    }

    fn lead(&mut self, level: u8, next: Cursor) {
        if !self.dry {
            self.view.keep_cursor(self.stage2.regime(), self.granule, level, self.asked.ipa, next);
        }
    }

    fn refuse(&self, code: FaultCode) -> Refused {
        self.stage2.refuse(self.asked, code)
    }
}
