//! What a [`World`](super::World) must know of an architecture.

use super::Numbers;
use iommu_core::hw::{Domain, Nested, Stream, StreamId, Unit};

/// What goes wrong in the middle of an operation.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The queue stands still.
    Stopped,
    /// Invalidations are executed, and their completion is never told.
    Mute,
    /// The nth invalidation from now on is refused.
    Descriptor(usize),
    /// The nth allocation of frames fails.
    Memory(usize),
    /// The nth completion from now on is lost.
    Completion(usize),
    /// The nth invalidation of a device TLB is not answered.
    DeviceTlb(usize),
}

/// A kind of target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nowhere.
    Blocked,
    /// Untranslated.
    Identity,
    /// A domain of the first stage.
    First,
    /// A domain of the second stage.
    Second,
    /// A guest's first stage.
    Nested,
}

/// The smallest leaf, the next, and a size of which four fit into the addresses that are tried.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// In bytes.
    pub page: u64,
    /// In bytes; a leaf.
    pub large: u64,
    /// In bytes; a leaf or a multiple of one, and more than four large ones.
    pub huge: u64,
}

/// A request that is on its way to memory.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// Whose.
    pub stream: Stream,
    /// From where.
    pub iova: u64,
    /// A write.
    pub write: bool,
    /// Where to.
    pub phys: u64,
}

/// What is called around each write to a register.
pub type Hook = Box<dyn FnMut() + Send>;

/// A unit of some architecture on its model, with its driver.
pub trait Machine {
    /// What accesses are made with, while the driver works.
    type Eye: Clone + Send + 'static;

    /// A unit of random properties, brought up, whose hardware takes random freedoms.
    fn choose(numbers: &mut Numbers<'_>) -> Self;

    /// In words, for messages.
    fn name(&self) -> &str;

    /// The driver.
    fn unit(&self) -> &dyn Unit;

    /// Three streams without PASID.
    fn streams(&self) -> [StreamId; 3];

    /// Sizes of leaves.
    fn sizes(&self) -> Sizes;

    /// log2 of what sixty extents of memory are apart from each other.
    fn memory_shift(&self) -> u32;

    /// Whether `stream` cannot lead to `kind` as long as `other`, of the same function, leads to `held`. Asked with `stream`
    /// itself, blocked: whether it can lead there at all.
    fn excludes(&self, stream: Stream, kind: Kind, other: Stream, held: Kind) -> bool;

    /// Whether accesses to this address never reach memory, untranslated or not.
    fn is_no_memory(&self, at: u64) -> bool;

    /// Whether a device TLB gets translations of what is passed through; otherwise its requests for them are refused.
    fn translates_identity(&self) -> bool;

    /// A guest's first stage on top of `parent`, which leads addresses elsewhere, as `operations::through_guest` says; `None`
    /// where something is in the way of it.
    fn guest(&self, parent: &dyn Domain) -> Option<Box<dyn Nested>>;

    /// From now on something goes wrong.
    fn begin(&self, trouble: Trouble);

    /// No more.
    fn end_of_trouble(&self);

    /// Sets or removes what is called around each write to a register.
    fn set_hook(&self, hook: Option<Hook>);

    /// What accesses are made with.
    fn eye(&self) -> Self::Eye;

    /// A device's access of one byte: with a translation that it holds or asks for, where it has a device TLB, or as it is.
    /// Where it went; `None` where it was refused.
    fn access(eye: &Self::Eye, stream: Stream, at: u64, write: bool, translated: bool) -> Option<u64>;

    /// The device TLB of a function holds nothing any more.
    fn forget_device_tlb(&self, stream: StreamId);

    /// Requests that are still on their way to memory although the unit could have waited for them.
    fn in_flight(&self) -> Vec<InFlight>;

    /// The last fault that hardware recorded, in words.
    fn last_fault(&self) -> String;

    /// No rule was broken so far; logs are emptied.
    fn check_and_forget(&self, after: &str);

    /// What must hold at the end.
    fn check(&self);
}
