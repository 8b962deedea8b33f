//! The kinds of unit that a test runs on.

use iommu_core::hw::{Stage, Transition};
use iommu_models::smmuv3::{Config, FaultCode};
use iommu_smmuv3::Completion;

/// A unit, the stage that its domains are walked as, and how memory behaves.
#[derive(Clone, Debug)]
pub struct Case {
    /// For messages.
    pub name: String,
    /// The unit.
    pub config: Config,
    /// The stage of its domains.
    pub stage: Stage,
    /// Devices see what was cleaned, and no more. Only a unit that does not snoop notices.
    pub non_coherent: bool,
    /// What firmware says of coherency, where it says anything.
    pub coherent: Option<bool>,
    /// Bits of stream ids that the driver is asked to serve.
    pub stream_bits: u8,
    /// How the driver is asked to learn that commands are done.
    pub completion: Completion,
}

impl Case {
    /// Every kind of unit, each with every stage that it has.
    pub fn all() -> Vec<Self> {
        let nested = Config::nested();
        let server = Config::server();
        let kinds = [
            ("nested", nested, false, None, 16),
            ("nested, not snooped", nested.non_coherent(), true, None, 16),
            ("not snooped, says firmware", nested, true, Some(false), 16),
            ("snooped, says firmware", nested.non_coherent(), true, Some(true), 16),
            ("stage 1 only", Config::stage_1(), false, None, 16),
            ("stage 2 only", Config::stage_2(), false, None, 16),
            ("without ranges", nested.without_ril(), false, None, 16),
            ("linear", nested.linear(), true, None, 10),
            ("narrow streams", nested.sid_bits(7), false, None, 16),
            ("48 bits of address", nested.oas(5), false, None, 16),
            ("42 bits of address", nested.oas(3), false, None, 16),
            ("queues of two", nested.queues(1), false, None, 16),
            ("server", server, false, None, 20),
            ("server, not snooped", server.non_coherent(), true, None, 16),
            ("small", Config::small(), true, None, 16),
        ];
        let mut all = Vec::new();
        for (kind, config, non_coherent, coherent, stream_bits) in kinds {
            for (stage, bit) in [(Stage::First, Config::S1P), (Stage::Second, Config::S2P)] {
                if config.idr0 & bit != 0 {
                    let name = format!("{kind}, {stage:?}");
                    let completion = Completion::Poll;
                    all.push(Self { name, config, stage, non_coherent, coherent, stream_bits, completion });
                }
            }
        }
        all
    }

    /// What QEMU has, with one stage.
    pub fn nested(stage: Stage) -> Self {
        let mut all = Self::all().into_iter();
        all.find(|case| case.config == Config::nested() && case.stage == stage).expect("it is the first kind")
    }

    /// Bits of stream ids that have a place in the table.
    pub fn table_bits(&self) -> u32 {
        u32::from(self.stream_bits).min(self.config.idr1 & 0x3f)
    }

    /// Whether the table has two levels, split at 8 bits.
    pub fn two_level(&self) -> bool {
        self.config.idr0 & Config::ST_LEVEL == 1 << 27 && self.table_bits() > 8
    }

    /// A stream, another of the same level-2 table, and the last that there is, in a table of its own where there can
    /// be several.
    pub fn streams(&self) -> [u32; 3] {
        [8, 0x11, (1 << self.table_bits()) - 1]
    }

    /// Whether the unit has invalidation by range.
    pub fn ranges(&self) -> bool {
        self.config.idr3 & Config::RIL != 0
    }

    /// The first address that domains do not translate.
    pub fn end(&self) -> u64 {
        let output = self.config.output_bits();
        match self.stage {
            Stage::First => 1 << 48,
            Stage::Second => 1 << output.min(48),
        }
    }

    /// What DMA sees when a stream moves from one domain of this stage to another: one word tells stages 1 apart, the address of
    /// the context descriptor; stages 2 have an address and a VMID, in words of their own.
    pub fn moves(&self) -> Transition {
        match self.stage {
            Stage::First => Transition::Hitless,
            Stage::Second => Transition::ThroughBlocked,
        }
    }

    /// The event of an address where nothing is mapped.
    pub fn not_mapped(&self) -> FaultCode {
        FaultCode::F_TRANSLATION
    }

    /// The event of a write where only reads are allowed.
    pub fn not_writable(&self) -> FaultCode {
        FaultCode::F_PERMISSION
    }

    /// The event of an address that the domain does not translate at all.
    pub fn beyond(&self, iova: u64) -> FaultCode {
        match self.stage {
            Stage::Second if iova >> self.config.output_bits() != 0 => FaultCode::F_ADDR_SIZE,
            _ => FaultCode::F_TRANSLATION,
        }
    }

    /// What a stream meets that is not attached and whose part of the table no attach has needed.
    pub fn untouched(&self) -> FaultCode {
        if self.two_level() { FaultCode::C_BAD_STREAMID } else { FaultCode::NONE }
    }
}
