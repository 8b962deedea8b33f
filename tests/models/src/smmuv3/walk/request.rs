//! One request, from stream id to memory, through whatever the view keeps in caches.

use super::page::Stage2;
use super::second::{self, Asked};
use super::stream::{self, Kind, Ste};
use super::{Class, Config, FaultCode, Granule, Refused, Tables, View, context, first};

/// What tags a translation in the TLB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::smmuv3) enum Regime {
    /// Stage 1, whatever stage 2 adds.
    First {
        el2: bool,
        vmid: u16,
        /// `None` for a global entry.
        asid: Option<u16>,
    },
    /// Stage 2.
    Second { vmid: u16 },
}

/// Reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Rights {
    pub(in crate::smmuv3) read: bool,
    pub(in crate::smmuv3) write: bool,
    /// A write would be let through once the leaf is dirty.
    pub(in crate::smmuv3) clean: bool,
}

impl Rights {
    pub(super) const ALL: Self = Self { read: true, write: true, clean: false };

    pub(in crate::smmuv3) const fn allow(self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }

    pub(super) const fn could(self, write: bool) -> bool {
        self.allow(write) || write && self.clean
    }
}

/// A translation as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Entry {
    /// What stage 1 gives for its first byte.
    pub(in crate::smmuv3) ipa: u64,
    pub(in crate::smmuv3) phys: u64,
    /// log2 of its size.
    pub(in crate::smmuv3) bits: u32,
    /// log2 of what its leaf maps, or that leaf's group: any address of it takes the entry away.
    pub(in crate::smmuv3) reach: u32,
    /// Level and granule of the leaf: that of stage 1 where it has both.
    pub(in crate::smmuv3) level: u8,
    pub(in crate::smmuv3) granule: Granule,
    pub(in crate::smmuv3) first: Rights,
    pub(in crate::smmuv3) second: Rights,
    /// Stage 2 makes it device memory.
    pub(in crate::smmuv3) device: bool,
}

impl Entry {
    /// What both stages allow; clean where either leaf is.
    pub(in crate::smmuv3) const fn rights(&self) -> Rights {
        let (first, second) = (self.first, self.second);
        let write = first.write && second.write;
        let clean = !write && (first.write || first.clean) && (second.write || second.clean);
        Rights { read: first.read && second.read, write, clean }
    }

    /// Bits of an address within it.
    pub(in crate::smmuv3) const fn mask(&self) -> u64 {
        (1 << self.bits) - 1
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(in crate::smmuv3) struct Found {
    pub(in crate::smmuv3) entry: Entry,
    /// The address that was looked up: without its highest byte where that is ignored.
    pub(in crate::smmuv3) input: u64,
    /// `None` in bypass.
    pub(in crate::smmuv3) regime: Option<Regime>,
}

impl Found {
    pub(in crate::smmuv3) const fn phys(&self) -> u64 {
        self.entry.phys + (self.input & self.entry.mask())
    }
}

/// Why a walk came to no end.
pub(super) enum Stop {
    Refused(Refused),
    /// A descriptor was no longer what it was when its flags were to be written.
    Changed,
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<FaultCode> for Refused {
    fn from(code: FaultCode) -> Self {
        Self::by(code)
    }
}

/// A request of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Request {
    pub(in crate::smmuv3) sid: u32,
    pub(in crate::smmuv3) ssid: Option<u32>,
    pub(in crate::smmuv3) iova: u64,
    pub(in crate::smmuv3) write: bool,
}

/// Updates of one request that may fail because software was faster.
const TRIES: usize = 64;

/// Translates one request.
pub(in crate::smmuv3) fn request(
    view: &mut dyn View,
    config: &Config,
    tables: Tables,
    request: Request,
) -> Result<Found, Refused> {
    let ste = stream::ste(view, config, tables, request.sid)?;
    let kind = stream::kind(config, &ste)?;
    // STE.MEV, from here on.
    let merges = ste[1] >> 19 & 1 != 0;
    for _ in 0..TRIES {
        match with(view, config, &ste, &kind, request) {
            Ok(found) => return Ok(found),
            Err(Stop::Refused(refused)) => return Err(Refused { merges, ..refused }),
            Err(Stop::Changed) => {}
        }
    }
    Err(Refused { merges, ..Refused::by(FaultCode::F_WALK_EABT) })
}

/// Translates one request by a STE that is valid.
fn with(view: &mut dyn View, config: &Config, ste: &Ste, kind: &Kind, request: Request) -> Result<Found, Stop> {
    let Request { sid, ssid, iova, write } = request;
    let (first, stage2) = match kind {
        Kind::Abort => return Err(Refused::by(FaultCode::NONE).into()),
        Kind::Bypass => (false, None),
        Kind::Translate { first, second } => (*first, second.as_ref()),
    };
    let selected = if first {
        context::select(ste, ssid)?
    } else {
        context::without_first(ssid)?;
        None
    };
    let Some(ssid) = selected else {
        // Stage 1 is bypassed: its output must be an address that there is.
        if iova >> config.output_bits() != 0 {
            return Err(Refused::by(FaultCode::F_ADDR_SIZE).into());
        }
        let Some(stage2) = stage2 else { return Ok(bypass(iova)) };
        let entry = second::translate(view, stage2, Asked { ipa: iova, write, class: Class::Input }, false)?;
        return Ok(Found { entry, input: iova, regime: Some(stage2.regime()) });
    };
    let cd = fetch_cd(view, ste, stage2, sid, ssid)?;
    let stage1 = context::check(config, ste, &cd, stage2.is_some())?;
    // Without stage 2 in the unit there are no VMIDs; with it they tag stage 1 alone as well, but not EL2.
    let vmid = if config.has(Config::S2P) && !stage1.el2 { ste[2] as u16 } else { 0 };
    first::translate(view, &stage1, stage2, vmid, iova, write)
}

/// The CD of `ssid`, through stage 2 where there is one.
pub(super) fn fetch_cd(
    view: &mut dyn View,
    ste: &Ste,
    stage2: Option<&Stage2>,
    sid: u32,
    ssid: u32,
) -> Result<context::Cd, Stop> {
    let mut changed = false;
    let mut locate = |view: &mut dyn View, at: u64| match stage2 {
        None => Ok(at),
        Some(stage2) => {
            let asked = Asked { ipa: at, write: false, class: Class::Cd };
            match second::translate(view, stage2, asked, false) {
                Ok(entry) => Ok(entry.phys + (at & entry.mask())),
                Err(Stop::Refused(refused)) => Err(refused),
                Err(Stop::Changed) => {
                    changed = true;
                    Err(stage2.refuse(asked, FaultCode::F_TRANSLATION))
                }
            }
        }
    };
    let found = context::cd(view, ste, sid, ssid, &mut locate);
    if changed { Err(Stop::Changed) } else { Ok(found?) }
}

fn bypass(iova: u64) -> Found {
    let page = iova & !0xfff;
    let (first, second) = (Rights::ALL, Rights::ALL);
    let granule = Granule(12);
    let entry = Entry { ipa: page, phys: page, bits: 12, reach: 12, level: 3, granule, first, second, device: false };
    Found { entry, input: iova, regime: None }
}
