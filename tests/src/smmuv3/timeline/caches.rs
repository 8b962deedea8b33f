//! What a unit could reach with caches as stale as the specification allows: each word of each structure may have been
//! read at any moment since the last invalidation that covers it, independently of the others.

use super::Done;
use crate::smmuv3::pieces::{self, Leads, SteAt, Top};
use iommu_core::addr::PhysAddr;
use iommu_models::memory::Snapshot;
use iommu_models::smmuv3::walk::{Tables, Translation};
use iommu_models::smmuv3::{Command, FaultCode, Scope};

/// What a request is given at one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Where it leads.
    pub phys: u64,
    /// Reads are let through.
    pub read: bool,
    /// Writes are let through.
    pub write: bool,
    /// ASID or VMID under which it is cached.
    pub tag: Option<u16>,
}

impl Access {
    /// From the walks of a read and a write.
    pub fn of(read: Result<Translation, FaultCode>, write: Result<Translation, FaultCode>) -> Option<Self> {
        let either = read.or(write).ok()?;
        let tag = either.asid.or(either.vmid);
        Some(Self { phys: either.phys.get(), read: read.is_ok(), write: write.is_ok(), tag })
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// In memory.
    Memory(Access),
    /// In a frame that is not allocated, where a structure was.
    Freed(PhysAddr),
}

/// A unit's caches at one moment: the newest of `states`, after `done`.
pub(super) struct Caches<'a> {
    pub(super) states: &'a [Snapshot],
    pub(super) done: &'a [Done],
    pub(super) tables: Tables,
    pub(super) sid: u32,
}

impl Caches<'_> {
    fn newest(&self) -> usize {
        self.states.len() - 1
    }

    /// Every value that the word at `at` may have in a cache that `covers` invalidates. Memory that is gone counts only
    /// now: it may have come later.
    fn values(&self, at: u64, covers: impl Fn(&Command, u64) -> bool, reached: &mut Vec<Reached>) -> Vec<u64> {
        let mut all = Vec::new();
        for (state, memory) in self.states.iter().enumerate() {
            match memory.read64(PhysAddr::new(at)) {
                Some(value) => {
                    let gone = |done: &Done| done.newest > state && covers(&done.command, value);
                    if !self.done.iter().any(gone) && !all.contains(&value) {
                        all.push(value);
                    }
                }
                None if state == self.newest() => reached.push(Reached::Freed(PhysAddr::new(at))),
                None => {}
            }
        }
        all
    }

    /// Every mixture of words that a cache may hold of the 64 bytes at `at`.
    fn mixtures(&self, at: u64, covers: impl Fn(&Command) -> bool, reached: &mut Vec<Reached>) -> Vec<[u64; 8]> {
        let mut all = vec![[0; 8]];
        for word in 0..8 {
            let values = self.values(at + word as u64 * 8, |command, _| covers(command), reached);
            all = all
                .into_iter()
                .flat_map(|words| {
                    values.iter().map(move |value| {
                        let mut words = words;
                        words[word] = *value;
                        words
                    })
                })
                .collect();
        }
        all
    }

    /// Whether `command` drops what is cached of the STE of the stream.
    fn covers_ste(&self, command: &Command) -> bool {
        match *command {
            Command::ConfigAll => true,
            Command::ConfigSte { sid, .. } => sid == self.sid,
            Command::ConfigRange { sid, log2 } => u64::from(sid) >> log2 == u64::from(self.sid) >> log2,
            _ => false,
        }
    }

    /// Of its level-1 descriptor.
    fn covers_level1(&self, command: &Command) -> bool {
        let split = self.tables.config >> 6 & 0x1f;
        match *command {
            Command::ConfigAll => true,
            Command::ConfigSte { sid, leaf } => !leaf && sid >> split == self.sid >> split,
            _ => false,
        }
    }

    /// Of its CD.
    fn covers_cd(&self, command: &Command) -> bool {
        match *command {
            Command::ConfigCd { sid, ssid, .. } => (sid, ssid) == (self.sid, 0),
            Command::ConfigCdAll { sid } => sid == self.sid,
            other => self.covers_ste(&other),
        }
    }

    /// Everything that a request to `iova` may reach.
    pub(super) fn reach(&self, iova: u64) -> Vec<Reached> {
        let mut reached = Vec::new();
        let places: Vec<u64> = match pieces::ste_at(self.tables, self.sid) {
            SteAt::Linear(at) => vec![at],
            SteAt::Behind(at) => {
                let descriptors = self.values(at, |command, _| self.covers_level1(command), &mut reached);
                let behind = |descriptor| pieces::ste_behind(self.tables, descriptor, self.sid);
                descriptors.into_iter().filter_map(behind).collect()
            }
        };
        for at in places {
            for words in self.mixtures(at, |command| self.covers_ste(command), &mut reached) {
                self.follow(pieces::ste_leads(&words), iova, &mut reached);
            }
        }
        reached.dedup();
        reached
    }

    fn follow(&self, leads: Leads, iova: u64, reached: &mut Vec<Reached>) {
        match leads {
            Leads::Nowhere => {}
            Leads::Through => {
                reached.push(Reached::Memory(Access { phys: iova, read: true, write: true, tag: None }));
            }
            Leads::Cd(at) => {
                for words in self.mixtures(at, |command| self.covers_cd(command), reached) {
                    self.follow(pieces::cd_leads(&words), iova, reached);
                }
            }
            Leads::Tables(top) if iova >> top.input_bits == 0 => {
                self.descend(&top, top.table, top.level, iova, reached)
            }
            Leads::Tables(_) => {}
        }
    }

    fn descend(&self, top: &Top, table: u64, level: u32, iova: u64, reached: &mut Vec<Reached>) {
        let covers = |command: &Command, word: u64| is_covered(top, command, iova, pieces::is_leaf(word, level), level);
        for word in self.values(pieces::slot(top, table, iova, level), covers, reached) {
            if !pieces::is_present(word) {
                continue;
            }
            let next = pieces::address(word, level);
            if pieces::is_leaf(word, level) {
                let phys = next + (iova & ((1 << (39 - 9 * level)) - 1));
                let (read, write) = pieces::rights(top.second, word);
                reached.push(Reached::Memory(Access { phys, read, write, tag: Some(top.tag) }));
            } else {
                self.descend(top, next, level + 1, iova, reached);
            }
        }
    }
}

/// Whether a command drops what is cached of a descriptor on the way to `iova`.
fn is_covered(top: &Top, command: &Command, iova: u64, leaf: bool, level: u32) -> bool {
    let meets = |scope: &Scope| {
        // What a leaf or a table of this level takes.
        let inside = (1u64 << (39 - 9 * level)) - 1;
        let (first, last) = (iova & !inside, iova | inside);
        let end = scope.len.map_or(scope.address, |len| scope.address.saturating_add(len - 1));
        let of_level = scope.level == 0 || !leaf || u32::from(scope.level) == level;
        (leaf || !scope.leaf_only) && of_level && scope.address <= last && first <= end
    };
    match *command {
        Command::TlbiEverything => true,
        Command::TlbiAll { vmid } => !top.second && vmid == 0,
        Command::TlbiAsid { vmid, asid } => !top.second && (vmid, asid) == (0, top.tag),
        Command::TlbiVa { vmid, asid, scope } => {
            !top.second && vmid == 0 && asid.is_none_or(|asid| asid == top.tag) && meets(&scope)
        }
        Command::TlbiVmid { vmid } => vmid == if top.second { top.tag } else { 0 },
        Command::TlbiIpa { vmid, scope } => top.second && vmid == top.tag && meets(&scope),
        _ => false,
    }
}
