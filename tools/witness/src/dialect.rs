//! Which IOMMU a trace is of: how its lines read, and what a change of its tables must show.

use crate::event::{Setup, Stage, Stream, Trace};
use crate::{smmuv3, vtd};

/// What a run was started with, as far as the rules depend on it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Conditions {
    /// The unit caches entries that are not present.
    pub caching_mode: bool,
    /// All DMA is that of functions in software, of which QEMU's unit sees nothing.
    pub in_software: bool,
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
    /// An invalidation of the stream's own entry, of this domain where it has one that is known.
    StreamCache(Option<u16>),
    /// An invalidation of the entry of the stream's PASID, or of its requests without one, of this domain where known.
    PasidCache(Option<u16>),
    /// An invalidation of all TLB entries of this domain where known, of one stage.
    Tlb(Option<u16>, Stage),
    /// One of all TLB entries of the stream's PASID, or of its requests without one, in some domain: told by PASID or by
    /// telling nothing.
    PasidTlb,
    /// A wait that ended.
    Wait,
}

/// How a VT-d unit is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Root and context entries alone lead to tables of the second stage.
    Legacy,
    /// Scalable mode, translating by this stage.
    Scalable(Stage),
}

impl Mode {
    /// The stage that translates.
    pub fn stage(self) -> Stage {
        match self {
            Self::Legacy => Stage::Second,
            Self::Scalable(stage) => stage,
        }
    }
}

/// How an SMMUv3 unit is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Regime {
    /// Translating by this stage alone.
    One(Stage),
    /// By guests' own stages 1, and what these lead to by stage 2; or by stage 2 alone where a guest asks for that.
    Nested,
}

impl Regime {
    /// The stage of the hypervisor's domains, by whose ids translations are told apart.
    pub fn tagged_by(self) -> Stage {
        match self {
            Self::One(stage) => stage,
            Self::Nested => Stage::Second,
        }
    }
}

/// An IOMMU and how it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Intel VT-d in this mode.
    Vtd(Mode),
    /// Arm SMMUv3 in this regime.
    Smmuv3(Regime),
}

impl Dialect {
    /// That of a scenario, of an IOMMU by QEMU's name that was given certain options; `None` where there is no such scenario.
    pub fn of(iommu: &str, scenario: &str, given: impl Fn(&str) -> bool) -> Option<Self> {
        // By the names of both versions.
        let first = given("fsts=on") || given("x-flts=on");
        match (iommu, scenario) {
            ("intel-iommu", "first-stage") => Some(Self::Vtd(Mode::Scalable(Stage::First))),
            ("intel-iommu", "second-stage") => Some(Self::Vtd(Mode::Scalable(Stage::Second))),
            ("intel-iommu", "legacy") => Some(Self::Vtd(Mode::Legacy)),
            ("intel-iommu", "adi") => Some(Self::Vtd(Mode::Scalable(if first { Stage::First } else { Stage::Second }))),
            // Parts of functions are those of a unit in software: QEMU's sees nothing of them.
            ("arm-smmuv3", "stage-1" | "adi") => Some(Self::Smmuv3(Regime::One(Stage::First))),
            ("arm-smmuv3", "stage-2") => Some(Self::Smmuv3(Regime::One(Stage::Second))),
            ("arm-smmuv3", "nested") => Some(Self::Smmuv3(Regime::Nested)),
            _ => None,
        }
    }

    /// The stage that translates; of the two of a guest, that of the hypervisor's domains.
    pub fn stage(self) -> Stage {
        match self {
            Self::Vtd(mode) => mode.stage(),
            Self::Smmuv3(regime) => regime.tagged_by(),
        }
    }

    /// Whether guests' own stages 1 translate before that.
    pub fn is_nested(self) -> bool {
        self == Self::Smmuv3(Regime::Nested)
    }

    /// The events in a trace.
    pub fn read(self, text: &str) -> Trace {
        match self {
            Self::Vtd(mode) => vtd::trace::read(text, mode),
            Self::Smmuv3(regime) => smmuv3::trace::read(text, regime),
        }
    }

    /// What a change of `stream` must show: each of these sequences, in its order.
    pub fn required(self, change: Change, stream: Stream, conditions: Conditions) -> Vec<Vec<Step>> {
        match self {
            Self::Vtd(mode) => vtd::changes::required(change, mode, stream, conditions),
            Self::Smmuv3(regime) => smmuv3::changes::required(change, regime),
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
    pub fn name_of_range(self, domain: u16, stage: Stage) -> String {
        match self {
            Self::Vtd(_) => format!("an IOTLB invalidation of domain {domain:#x}"),
            Self::Smmuv3(Regime::Nested) if stage == Stage::First => {
                format!("a TLB invalidation of stage 1 under VMID {domain:#x}")
            }
            Self::Smmuv3(_) => format!("a {}", smmuv3::changes::name(Step::Tlb(Some(domain), stage))),
        }
    }

    /// The PASID that the unit records for a fault of a request with this one.
    pub fn recorded_pasid(self, code: u32, pasid: Option<u32>) -> Option<u32> {
        match self {
            Self::Vtd(_) => vtd::trace::recorded_pasid(code, pasid),
            Self::Smmuv3(_) => pasid,
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
