//! What changed -> what to invalidate, and in which order (sections 3.21, 4.3 and 4.4).
//!
//! Every transition of every structure has its arm in [`plan`]; nothing else in this driver chooses an invalidation.
//! The order within a plan is: configuration, CMD_SYNC, translations. The queue adds the last CMD_SYNC. Commands
//! between two CMD_SYNCs may run in any order, and a translation that is dropped while a stale configuration is still
//! in use could come back: hence the one in the middle.

use crate::capabilities::Capabilities;
use crate::spec::command::{Command, MOST_NUM, MOST_SCALE, Pages, Range};
use iommu_core::addr::PAGE_SIZE;
use iommu_core::hw::{Gather, Touched};

/// How cached translations of a stream are tagged, which decides the command that removes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// By ASID, under VMID 0: stage 1.
    Asid(u16),
    /// By VMID: stage 2.
    Vmid(u16),
    /// Not at all: what passes through is not translated.
    Bypass,
}

/// A change that hardware may have cached the old state of.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The stream table was given to a unit that may hold anything.
    StreamTable,
    /// All of an entry was written but the word that decides, in a part of the table that may be new: it still aborts.
    EntryPrepared {
        /// Stream id.
        stream: u32,
    },
    /// An entry that aborted became one that leads somewhere.
    StreamAttached {
        /// Stream id.
        stream: u32,
        /// Tag of what it leads to.
        tag: Tag,
    },
    /// An entry that led somewhere became one that aborts.
    StreamDetached {
        /// Stream id.
        stream: u32,
        /// Tag of what it led to.
        tag: Tag,
    },
    /// Leaves became valid.
    Mapped,
    /// Leaves, and perhaps tables, were taken out.
    Unmapped {
        /// The domain.
        tag: Tag,
        /// What was taken out.
        gather: &'a Gather,
    },
    /// An ASID or VMID is about to be used for another domain.
    DomainRetired {
        /// The id.
        tag: Tag,
    },
}

/// Most commands in a plan. One range that takes 36 bits of pages needs eight in range form; without range form this is
/// the number of pages from which on the whole domain is dropped.
const MOST: usize = 64;

/// Commands in the order in which they must run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    commands: [Command; MOST],
    len: usize,
}

impl Plan {
    const EMPTY: Self = Self { commands: [Command([0; 2]); MOST], len: 0 };

    /// What to submit.
    pub fn commands(&self) -> &[Command] {
        &self.commands[..self.len]
    }

    /// Adds a command; `false` where the plan is full.
    fn push(&mut self, command: Command) -> bool {
        match self.commands.get_mut(self.len) {
            Some(slot) => {
                *slot = command;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Adds what drops everything under a tag.
    fn push_all_of(&mut self, tag: Tag) {
        match tag {
            Tag::Asid(asid) => self.push(Command::tlbi_nh_asid(asid)),
            Tag::Vmid(vmid) => self.push(Command::tlbi_s12_vmall(vmid)),
            Tag::Bypass => true,
        };
    }

    /// Adds what drops the configuration of a stream. By the letter CMD_CFGI_STE drops the context descriptor too
    /// (section 4.3.1); a command of its own costs next to nothing where streams move, and relies on no letter.
    fn push_configuration(&mut self, stream: u32, tag: Tag) {
        self.push(Command::cfgi_ste(stream, true));
        if let Tag::Asid(_) = tag {
            self.push(Command::cfgi_cd(stream));
        }
    }
}

/// The invalidations that `change` needs on a unit with these capabilities.
pub fn plan(caps: &Capabilities, change: &Change<'_>) -> Plan {
    let mut plan = Plan::EMPTY;
    match *change {
        Change::StreamTable => {
            plan.push(Command::cfgi_all());
            plan.push(Command::sync());
            if caps.hypervisor_streams() {
                plan.push(Command::tlbi_el2_all());
            }
            plan.push(Command::tlbi_nsnh_all());
        }
        // Not only the leaf: the level-1 descriptor may be new, and invalid ones may be cached.
        Change::EntryPrepared { stream } => {
            plan.push(Command::cfgi_ste(stream, false));
        }
        Change::StreamAttached { stream, tag } => plan.push_configuration(stream, tag),
        Change::StreamDetached { stream, tag } => {
            plan.push_configuration(stream, tag);
            if tag != Tag::Bypass {
                plan.push(Command::sync());
                plan.push_all_of(tag);
            }
        }
        // What is not valid is never cached as a translation.
        Change::Mapped => {}
        Change::Unmapped { tag, gather } => {
            let exact =
                !gather.everything() && gather.touched().all(|touched| push_range(&mut plan, caps, tag, touched));
            if !exact {
                plan = Plan::EMPTY;
                plan.push_all_of(tag);
            }
        }
        Change::DomainRetired { tag } => plan.push_all_of(tag),
    }
    plan
}

/// Adds what drops one range of a gather under a tag; `false` where the plan has no room for it.
fn push_range(plan: &mut Plan, caps: &Capabilities, tag: Tag, touched: Touched) -> bool {
    let Touched { range, leaves, tables } = touched;
    let leaves_only = tables.is_empty();
    let mut push = |address, range| {
        let pages = Pages { address, leaves_only, range };
        match tag {
            Tag::Asid(asid) => plan.push(Command::tlbi_nh_va(asid, pages)),
            Tag::Vmid(vmid) => plan.push(Command::tlbi_s2_ipa(vmid, pages)),
            Tag::Bypass => true,
        }
    };
    let lowest = lowest_level(touched);
    if !caps.range_invalidation() {
        // One command an entry: it drops whatever maps the address. Where sizes are mixed, as if all were the smallest.
        let step = 1 << (12 + 9 * lowest);
        return (range.start().get()..=range.last().get()).step_by(step).all(|address| push(address, None));
    }
    // TTL names the level where all leaves have the same and nothing else has changed.
    let same = leaves_only && leaves.mask().is_power_of_two();
    let level = if same { 3 - lowest } else { 0 };
    let mut address = range.start().get();
    let mut left = (range.last().get() - address) / PAGE_SIZE + 1;
    while left != 0 {
        let scale = left.trailing_zeros().min(MOST_SCALE);
        let count = left >> scale;
        let count = if count <= MOST_NUM { count } else { (count - 1) % MOST_NUM + 1 };
        let pages = count << scale;
        let form = Range { num: (count - 1) as u8, scale: scale as u8, level };
        // A range of one page without a level is reserved; without range form it is the same.
        let form = (pages != 1 || level != 0).then_some(form);
        if !push(address, form) {
            return false;
        }
        left -= pages;
        // Past the last page this may wrap; nothing comes after it.
        address = address.wrapping_add(pages * PAGE_SIZE);
    }
    true
}

/// The lowest level whose entries have changed, 0 being those that map 4 KiB: of the leaves, or of what led to the
/// tables; 0 where that is not known.
fn lowest_level(touched: Touched) -> u8 {
    let changed = |level: &u8| touched.leaves.contains(*level) || *level != 0 && touched.tables.contains(*level - 1);
    (0..4).find(changed).unwrap_or(0)
}

#[cfg(test)]
mod tests;
