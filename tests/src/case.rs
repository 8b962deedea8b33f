//! The kinds of unit that a test runs on.

use iommu_core::hw::Stage;
use iommu_models::vtd::{Config, FaultCode};

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
}

/// A second stage of 39 bits with 3 levels, and nothing wider.
pub const fn narrow() -> Config {
    // MGAW and SAGAW.
    let config = Config::second_stage();
    Config { cap: config.cap & !(0x3f << 16 | 0x1f << 8) | 38 << 16 | 2 << 8, ..config }
}

/// A server's unit that snoops nothing: ECAP.C and ECAP.SMPWCS are clear.
pub const fn server_without_snooping() -> Config {
    Config::server().ecap_bits(1 | Config::ECAP_SMPWCS, false)
}

impl Case {
    /// Every kind of unit and stage without caching mode, and with memory that suits it.
    pub fn plain() -> Vec<Self> {
        let case = |name: &str, config, stage, non_coherent| Self { name: name.into(), config, stage, non_coherent };
        vec![
            case("second stage", Config::second_stage(), Stage::Second, false),
            case("second stage, not snooped", Config::second_stage(), Stage::Second, true),
            case("second stage of 39 bits", narrow(), Stage::Second, true),
            case("first stage", Config::first_stage(), Stage::First, false),
            case("first stage, not snooped", Config::first_stage(), Stage::First, true),
            case("server, second stage", Config::server(), Stage::Second, true),
            case("server, first stage", Config::server(), Stage::First, true),
            case("server without snooping, second stage", server_without_snooping(), Stage::Second, true),
            case("server without snooping, first stage", server_without_snooping(), Stage::First, true),
            case(
                "server, page walks not snooped",
                Config::server().ecap_bits(Config::ECAP_SMPWCS, false),
                Stage::First,
                true,
            ),
            case("server, structures not snooped", Config::server().ecap_bits(1, false), Stage::Second, true),
        ]
    }

    /// [`Case::plain`], each without and with caching mode.
    pub fn all() -> Vec<Self> {
        let plain = Self::plain();
        let caching = plain.iter().map(|case| {
            let name = format!("{}, caching mode", case.name);
            Self { name, config: case.config.caching_mode(), ..case.clone() }
        });
        caching.chain(plain.clone()).collect()
    }

    /// The same with other CAP bits.
    pub fn with_cap(&self, mask: u64, set: bool) -> Self {
        let name = format!("{}, CAP {mask:#x} {}", self.name, if set { "set" } else { "clear" });
        Self { name, config: self.config.cap_bits(mask, set), ..self.clone() }
    }

    /// CAP.CM.
    pub fn caching(&self) -> bool {
        self.config.cap & Config::CAP_CM != 0
    }

    /// Whether the unit snoops page walks (ECAP.SMPWCS).
    pub fn snoops_walks(&self) -> bool {
        self.config.ecap & Config::ECAP_SMPWCS != 0
    }

    /// Whether the unit snoops root, context and PASID structures (ECAP.C).
    pub fn snoops_structures(&self) -> bool {
        self.config.ecap & 1 != 0
    }

    /// The first address that domains do not translate.
    pub fn end(&self) -> u64 {
        let guest = (self.config.cap >> 16 & 0x3f) + 1;
        // The shallowest tables that hold all addresses, else the deepest.
        let there = [(2, 39), (4, 48), (8, 57)].map(|(bit, bits)| (self.config.cap >> 8 & bit != 0).then_some(bits));
        let there: Vec<u64> = there.into_iter().flatten().collect();
        let tables = there.iter().find(|bits| **bits >= guest).or(there.last()).copied().unwrap_or(0);
        1 << if self.stage == Stage::First { guest.min(self.canonical_bits()) } else { guest.min(tables) }
    }

    /// Bits of an address of the lower canonical half, in the first stage that the unit's domains have.
    pub fn canonical_bits(&self) -> u64 {
        let guest = (self.config.cap >> 16 & 0x3f) + 1;
        if self.config.cap & Config::CAP_FS5LP != 0 && guest > 48 { 56 } else { 47 }
    }

    /// The fault of an address where nothing is mapped.
    pub fn not_mapped(&self) -> FaultCode {
        match self.stage {
            Stage::First => FaultCode::FIRST_NOT_PRESENT,
            Stage::Second => FaultCode::SECOND_PERMISSION,
        }
    }

    /// The fault of a write where only reads are allowed.
    pub fn not_writable(&self) -> FaultCode {
        FaultCode::NO_WRITE
    }
}
