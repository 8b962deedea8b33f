//! Requests for translations, and translated requests (sections 3.9.1.2 and 3.9.1.3).

use super::request::{Request, Stop, request};
use super::second::{self, Asked};
use super::stream::{self, Kind, Ste};
use super::{Class, Config, FaultCode, Refused, Tables, View};
use iommu_core::addr::PhysAddr;

/// An answer with success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The first byte of what is granted; with ATS of stage 1 alone what stage 1 gives.
    pub address: PhysAddr,
    /// log2 of its size.
    pub bits: u32,
    /// Reads are let through.
    pub read: bool,
    /// Writes are let through.
    pub write: bool,
}

/// An answer without translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Unsupported Request, with F_BAD_ATS_TREQ where it says so.
    Unsupported {
        /// An event is recorded.
        recorded: bool,
    },
    /// Completer Abort: of a configuration that is broken, with the event that an access would give. None is recorded.
    Aborted(FaultCode),
}

/// What a stream may do by STE.EATS.
enum Allowed {
    /// Nothing; Config 0, of which no event tells.
    Blocked,
    Nothing,
    /// Translations by all stages.
    Full,
    /// Translations by stage 1, and stage 2 for what comes translated.
    Split,
}

impl Allowed {
    /// `checked`: CR0.ATSCHK.
    const fn of(ste: &Ste, kind: &Kind, checked: bool) -> Self {
        match (kind, ste[1] >> 28 & 3) {
            (Kind::Abort, _) => Self::Blocked,
            (Kind::Translate { .. }, 1) => Self::Full,
            (Kind::Translate { .. }, 2) if checked => Self::Split,
            _ => Self::Nothing,
        }
    }
}

/// The answer to a request for the translation of an address; with `asked.write`, NW is clear: accessed and dirty flags
/// are set as by the access itself.
pub(in crate::smmuv3) fn ask(
    view: &mut dyn View,
    config: &Config,
    tables: Tables,
    asked: Request,
    checked: bool,
) -> Result<Granted, Denied> {
    let found = stream::ste(view, config, tables, asked.sid).and_then(|ste| Ok((ste, stream::kind(config, &ste)?)));
    let (ste, kind) = found.map_err(|refused| Denied::Aborted(refused.code))?;
    let split = match Allowed::of(&ste, &kind, checked) {
        Allowed::Blocked => return Err(Denied::Unsupported { recorded: false }),
        Allowed::Nothing => return Err(Denied::Unsupported { recorded: true }),
        Allowed::Full => false,
        Allowed::Split => true,
    };
    let mut found = request(view, config, tables, asked);
    if asked.write && found.as_ref().is_err_and(|refused| refused.code == FaultCode::F_PERMISSION) {
        // What of it is allowed.
        found = request(view, config, tables, Request { write: false, ..asked });
    }
    match found {
        Ok(found) => {
            let entry = &found.entry;
            let rights = entry.rights();
            // Stage 1 bypassed and stage 2 as well: the same address.
            let address = if split { entry.ipa } else { entry.phys };
            let address = PhysAddr::new(address);
            Ok(Granted { address, bits: entry.bits, read: rights.read, write: asked.write && rights.write })
        }
        Err(Refused {
            code: FaultCode::F_TRANSLATION | FaultCode::F_ADDR_SIZE | FaultCode::F_ACCESS | FaultCode::F_PERMISSION,
            ..
        }) => {
            // The smallest translation unit.
            let bits = config.smallest_granule();
            Ok(Granted { address: PhysAddr::new(asked.iova >> bits << bits), bits, read: false, write: false })
        }
        Err(refused) => Err(Denied::Aborted(refused.code)),
    }
}

/// Where a translated request goes.
pub(in crate::smmuv3) fn translated(
    view: &mut dyn View,
    config: &Config,
    tables: Tables,
    asked: Request,
    checked: bool,
) -> Result<u64, Refused> {
    if !checked {
        return sized(config, asked.iova);
    }
    // Of a broken configuration no event tells.
    let silent = |_| Refused::by(FaultCode::NONE);
    let ste = stream::ste(view, config, tables, asked.sid).map_err(silent)?;
    let kind = stream::kind(config, &ste).map_err(silent)?;
    match (Allowed::of(&ste, &kind, checked), &kind) {
        (Allowed::Blocked, _) => Err(Refused::by(FaultCode::NONE)),
        (Allowed::Full, _) => sized(config, asked.iova),
        (Allowed::Split, Kind::Translate { second: Some(stage2), .. }) => {
            let input = Asked { ipa: asked.iova, write: asked.write, class: Class::Input };
            match second::translate(view, stage2, input, false) {
                Ok(entry) => Ok(entry.phys + (asked.iova & entry.mask())),
                Err(Stop::Refused(refused)) => Err(refused),
                Err(Stop::Changed) => Err(Refused::by(FaultCode::F_WALK_EABT)),
            }
        }
        _ => Err(Refused::by(FaultCode::F_TRANSL_FORBIDDEN)),
    }
}

/// An address beyond what the unit has is blocked without a record.
fn sized(config: &Config, phys: u64) -> Result<u64, Refused> {
    if phys >> config.output_bits() != 0 { Err(Refused::by(FaultCode::NONE)) } else { Ok(phys) }
}
