//! Pinned exactly once, however many use it: the state of a source's memory, and the count of its users.
//!
//! The count is an atomic beside the runs, so that a further user and one that is not the last take no lock. Whoever finds
//! nothing pinned, or is the last to go, marks the state and calls the source with no lock held; others wait for the
//! mark to go, which depends on nothing that they hold.

use super::build::Builder;
use super::extents::Runs;
use super::revoke::Space;
use super::{Memory, MemoryError, MemoryKind, OWNERS, Pages, Repr};
use crate::addr::PAGE_SIZE;
use crate::error::Error;
use crate::quota::{Account, Amounts, Ledger};
use crate::sync::{self, Mutex, Rank};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{replace, size_of};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use iommu_alloc::Shared;

/// What it takes to know of a source, in bytes, and of what is pinned, beside the runs.
const SOURCE_BYTES: u64 = (size_of::<Source>() + OWNERS) as u64;
const PINNED_BYTES: u64 = (size_of::<Pinned>() + OWNERS) as u64;

/// Memory of an embedder's source.
pub(super) struct Source {
    pub(super) memory: Arc<dyn Memory>,
    pub(super) len: u64,
    pub(super) kind: MemoryKind,
    pub(super) writable: bool,
    pub(super) revocable: bool,
    pub(super) ledger: Ledger,
    /// Set once and for ever, with the state locked.
    pub(super) revoked: AtomicBool,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// Somebody is at revoking it.
    pub(super) revoking: bool,
    /// Who is to be told of a revocation.
    pub(super) spaces: Vec<Space>,
}

pub(super) enum Phase {
    /// Not pinned.
    Idle,
    /// Whoever set this calls the source, and sets `Pinned` or `Idle` next.
    Pinning,
    /// Pinned. Where the count of users is 0 the last one is on its way to set `Unpinning`.
    Pinned(Shared<Pinned>),
    /// Whoever set this calls the source, and sets `Idle` next.
    Unpinning,
}

/// What is pinned.
pub(super) struct Pinned {
    pub(super) pages: Pages,
    pub(super) runs: Runs,
    users: AtomicUsize,
    /// What it has cost.
    cost: Amounts,
}

impl Source {
    pub(super) fn new(memory: Arc<dyn Memory>, account: Option<&Account>) -> Result<Shared<Self>, Error> {
        sync::assert_none_held();
        let len = memory.len();
        if len == 0 {
            return Err(Error::Empty);
        }
        let ledger = Ledger::new(account.cloned());
        ledger.charge(Amounts { metadata: SOURCE_BYTES, ..Amounts::NONE })?;
        let state = State { phase: Phase::Idle, revoking: false, spaces: Vec::new() };
        Ok(Shared::try_new(Self {
            len,
            kind: memory.kind(),
            writable: memory.writable(),
            revocable: memory.revocable(),
            memory,
            ledger,
            revoked: AtomicBool::new(false),
            state: Mutex::new(Rank::Pages, state),
        })?)
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(super) fn is_pinned(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Pinned(_))
    }

    pub(super) fn metadata(&self) -> u64 {
        let state = self.state.lock();
        let pinned = match &state.phase {
            Phase::Pinned(pinned) => pinned.runs.bytes().saturating_add(PINNED_BYTES),
            _ => 0,
        };
        let spaces = state.spaces.capacity().saturating_mul(size_of::<Space>());
        SOURCE_BYTES.saturating_add(pinned).saturating_add(spaces as u64)
    }

    /// One user more.
    pub(super) fn pin(this: &Shared<Self>) -> Result<User, Error> {
        sync::assert_none_held();
        loop {
            let mut state = this.state.lock();
            if this.is_revoked() {
                return Err(Error::Revoked);
            }
            match &state.phase {
                Phase::Idle => {
                    state.phase = Phase::Pinning;
                    break;
                }
                Phase::Pinned(pinned) => {
                    if let Some(user) = User::of(pinned) {
                        return Ok(user);
                    }
                }
                Phase::Pinning | Phase::Unpinning => {}
            }
            drop(state);
            sync::relax();
        }
        let pinned = match Self::begin(this) {
            Ok(pinned) => pinned,
            Err(error) => {
                this.state.lock().phase = Phase::Idle;
                return Err(error);
            }
        };
        let mut state = this.state.lock();
        if this.is_revoked() {
            state.phase = Phase::Unpinning;
            drop(state);
            this.end(pinned.cost);
            return Err(Error::Revoked);
        }
        state.phase = Phase::Pinned(pinned.clone());
        drop(state);
        Ok(User(pinned))
    }

    /// Charges, pins and records, in the phase `Pinning`. After an error nothing is pinned and nothing charged.
    fn begin(this: &Shared<Self>) -> Result<Shared<Pinned>, Error> {
        let mut cost = Amounts { pinned: this.len, metadata: PINNED_BYTES, ..Amounts::NONE };
        this.ledger.charge(cost)?;
        let pinned = Self::record(this).and_then(|(runs, charged)| {
            cost.metadata = cost.metadata.saturating_add(charged);
            let users = AtomicUsize::new(1);
            let pages = Pages(Repr::Source(this.clone()));
            Shared::try_new(Pinned { pages, runs, users, cost }).map_err(|_| {
                this.unpin();
                Error::OutOfMemory
            })
        });
        if pinned.is_err() {
            this.ledger.release(cost);
        }
        pinned
    }

    /// Pins; returns the runs, and the bytes of metadata that they cost.
    fn record(&self) -> Result<(Runs, u64), Error> {
        sync::assert_none_held();
        // No source of whole pages has more runs than pages.
        let most = usize::try_from(self.len.div_ceil(PAGE_SIZE)).unwrap_or(usize::MAX);
        let mut builder = Builder::new(Some(&self.ledger), self.memory.extents_hint().min(most));
        builder.prepare()?;
        let mut refused = None;
        let result = self.memory.pin(&mut |extent| {
            if refused.is_none() {
                refused = if extent.len > self.len.saturating_sub(builder.total()) {
                    Some(Error::BadMemory)
                } else {
                    builder.push(extent).err()
                };
            }
            match refused {
                None => Ok(()),
                Some(Error::OutOfMemory | Error::Quota(_)) => Err(MemoryError::OutOfMemory),
                Some(_) => Err(MemoryError::Unavailable),
            }
        });
        if let Err(error) = result {
            return Err(refused.unwrap_or(match error {
                MemoryError::OutOfMemory => Error::OutOfMemory,
                MemoryError::Unavailable | MemoryError::Unsupported => Error::BadMemory,
            }));
        }
        // From here on it is pinned, as far as the source knows.
        let whole = builder.total() == self.len;
        let recorded = match refused {
            Some(error) => Err(error),
            None if !whole => Err(Error::BadMemory),
            None => builder.finish().and_then(|runs| runs.ok_or(Error::BadMemory)),
        };
        recorded.inspect_err(|_| self.unpin())
    }

    fn unpin(&self) {
        sync::assert_none_held();
        self.memory.unpin();
    }

    /// Unpins, in the phase `Unpinning`, and gives back what the pin cost.
    pub(super) fn end(&self, cost: Amounts) {
        self.unpin();
        self.ledger.release(cost);
        self.state.lock().phase = Phase::Idle;
    }
}

impl State {
    /// Marks what is pinned, if anything, as being unpinned. Then the caller is to [end](Source::end) it.
    pub(super) fn take(&mut self) -> Option<Shared<Pinned>> {
        match replace(&mut self.phase, Phase::Unpinning) {
            Phase::Pinned(pinned) => Some(pinned),
            other => {
                self.phase = other;
                None
            }
        }
    }
}

impl Pinned {
    pub(super) fn cost(&self) -> Amounts {
        self.cost
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The embedder's memory may go with it.
        sync::assert_none_held();
    }
}

/// One user of what is pinned.
pub(super) struct User(Shared<Pinned>);

impl User {
    /// One user more, unless the last one is on its way out.
    fn of(pinned: &Shared<Pinned>) -> Option<Self> {
        let more = |users| if users == 0 { None } else { Some(users + 1) };
        pinned.users.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).ok()?;
        Some(Self(pinned.clone()))
    }

    #[inline]
    pub(super) fn pinned(&self) -> &Pinned {
        &self.0
    }

    #[inline]
    pub(super) fn another(&self) -> Self {
        // This one keeps the count above 0.
        self.0.users.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        sync::assert_none_held();
        let Repr::Source(source) = &self.0.pages.0 else { return };
        // Nothing to do where a revocation was faster, after which nothing is ever pinned again.
        let pinned = source.state.lock().take();
        if let Some(pinned) = pinned {
            source.end(pinned.cost);
        }
    }
}
