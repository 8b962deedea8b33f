//! Which IOMMU a trace is of: how its lines read, and what a change of its tables must show.

use crate::event::{Setup, Stage, Trace};
use crate::{smmuv3, vtd};

/// What a run was started with, as far as the rules depend on it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Conditions {
    /// The unit caches entries that are not present.
    pub caching_mode: bool,
}

/// A change of the tables of one stream.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// It had nothing and got a domain.
    Attach,
    /// It had this domain, where known, and got another.
    Move(Option<u16>),
    /// It had this domain, where known, and has nothing now.
    Detach(Option<u16>),
}

/// One thing that the trace must show, in order with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An invalidation of the stream's own entry.
    StreamCache,
    /// An invalidation of the PASID entry, of this domain where known.
    PasidCache(Option<u16>),
    /// An invalidation of all TLB entries of this domain where known, of one stage.
    Tlb(Option<u16>, Stage),
    /// One of all TLB entries of requests without PASID in some domain, told by PASID or by telling nothing.
    PasidTlb,
    /// A wait that ended.
    Wait,
}

/// An IOMMU and how it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Intel VT-d in scalable mode, translating by this stage.
    Vtd(Stage),
    /// Arm SMMUv3, translating by this stage.
    Smmuv3(Stage),
}

impl Dialect {
    /// That of a scenario; `None` where there is no such scenario.
    pub fn of(scenario: &str) -> Option<Self> {
        match scenario {
            "first-stage" => Some(Self::Vtd(Stage::First)),
            "second-stage" => Some(Self::Vtd(Stage::Second)),
            "stage-1" => Some(Self::Smmuv3(Stage::First)),
            "stage-2" => Some(Self::Smmuv3(Stage::Second)),
            _ => None,
        }
    }

    /// The stage that translates.
    pub fn stage(self) -> Stage {
        let (Self::Vtd(stage) | Self::Smmuv3(stage)) = self;
        stage
    }

    /// The events in a trace.
    pub fn read(self, text: &str) -> Trace {
        match self {
            Self::Vtd(_) => vtd::trace::read(text),
            Self::Smmuv3(stage) => smmuv3::trace::read(text, stage),
        }
    }

    /// What a change must show: each of these sequences, in its order.
    pub fn required(self, change: Change, conditions: Conditions) -> Vec<Vec<Step>> {
        match self {
            Self::Vtd(stage) => vtd::changes::required(change, stage, conditions),
            Self::Smmuv3(stage) => smmuv3::changes::required(change, stage),
        }
    }

    /// What each of these steps is called here.
    pub fn name(self, step: Step) -> String {
        match self {
            Self::Vtd(_) => vtd::changes::name(step),
            Self::Smmuv3(_) => smmuv3::changes::name(step),
        }
    }

    /// What an invalidation of some addresses of a domain is called here.
    pub fn name_of_range(self, domain: u16) -> String {
        match self {
            Self::Vtd(_) => format!("an IOTLB invalidation of domain {domain:#x}"),
            Self::Smmuv3(stage) => format!("a {}", smmuv3::changes::name(Step::Tlb(Some(domain), stage))),
        }
    }

    /// What the unit must have before any DMA, and what it is called here.
    pub fn needed(self) -> &'static [(Setup, &'static str)] {
        match self {
            Self::Vtd(_) => &[
                (Setup::Queue, "an invalidation queue"),
                (Setup::Tables, "a root table"),
                (Setup::Translation(true), "translation on"),
            ],
            Self::Smmuv3(_) => &[
                (Setup::Queue, "a command queue"),
                (Setup::Faults, "an event queue"),
                (Setup::Tables, "a stream table"),
                (Setup::Translation(true), "translation on"),
            ],
        }
    }
}
