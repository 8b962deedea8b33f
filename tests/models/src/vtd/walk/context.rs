//! Root table and context tables (sections 9.1 to 9.4), and what a context entry lets through.

use super::view::{Structure, fetch};
use super::{AddressType, FaultCode, Refused, Request, View, at, beyond, is_interrupt};
use crate::vtd::Config;

/// A context entry, present and checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Its words; the last two are zero in legacy mode.
    pub words: [u64; 4],
    /// Whether it is one of legacy mode.
    pub legacy: bool,
}

impl Context {
    /// FPD.
    pub const fn silent(&self) -> bool {
        self.words[0] & 2 != 0
    }

    /// Domain id, in legacy mode.
    pub const fn domain(&self) -> Option<u16> {
        if self.legacy { Some((self.words[1] >> 8) as u16) } else { None }
    }

    /// TT, in legacy mode.
    pub(super) const fn translation_type(&self) -> u64 {
        self.words[0] >> 2 & 3
    }
}

/// What a context entry does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// On to the PASID table, with this PASID.
    Pasid(u32),
    /// On to the second stage, or straight through, of legacy mode.
    Legacy,
    /// The address is a host's, and goes out as it is.
    Translated,
}

/// Bits of DID, as it stands in bits 15:0, that the unit does not have.
pub(super) const fn domain_reserved(config: &Config) -> u64 {
    0xffff & !((1u64 << config.domain_bits()) - 1)
}

/// Reads root and context entry. Of the request only the requester counts, and whether it has a PASID.
pub(in crate::vtd) fn context(
    view: &mut dyn View,
    rtaddr: u64,
    config: &Config,
    request: &Request,
) -> Result<Context, Refused> {
    let mode = rtaddr >> 10 & 3;
    match mode {
        0 if request.pasid.is_some() => return Err(Refused::loud(FaultCode::MODE)),
        0 => {}
        1 if config.ecap_bit(43) => {}
        // Section 3.4.4: no table is looked at.
        3 if config.ecap_bit(52) => return Err(Refused::loud(FaultCode::ABORTED)),
        _ => return Err(Refused::loud(FaultCode::ROOT_ADDRESS)),
    }
    if rtaddr & beyond(config.haw) != 0 {
        return Err(Refused::loud(FaultCode::ROOT_ADDRESS));
    }
    if mode == 0 { legacy(view, rtaddr, config, request) } else { scalable(view, rtaddr, config, request) }
}

fn legacy(view: &mut dyn View, rtaddr: u64, config: &Config, request: &Request) -> Result<Context, Refused> {
    let (bus, devfn) = (u64::from(request.requester >> 8), u64::from(request.requester & 0xff));
    let root: [u64; 2] =
        fetch(view, Structure::Root, at(rtaddr, bus * 16)).ok_or(Refused::loud(FaultCode::LEGACY_ROOT_ACCESS))?;
    if root[0] & 1 == 0 {
        return Err(Refused::loud(FaultCode::LEGACY_ROOT_NOT_PRESENT));
    }
    if root[0] & (0xffe | beyond(config.haw)) | root[1] != 0 {
        return Err(Refused::loud(FaultCode::LEGACY_ROOT_RESERVED));
    }
    let words: [u64; 2] = fetch(view, Structure::Context, at(root[0], devfn * 16))
        .ok_or(Refused::loud(FaultCode::LEGACY_CONTEXT_ACCESS))?;
    let context = Context { words: [words[0], words[1], 0, 0], legacy: true };
    let refused = |code| Refused { code, silent: context.silent() };
    if words[0] & 1 == 0 {
        return Err(refused(FaultCode::LEGACY_CONTEXT_NOT_PRESENT));
    }
    let kind = context.translation_type();
    // SSPTPTR is not looked at in pass-through.
    let pointer = if kind == 2 { 0 } else { beyond(config.haw) };
    let reserved = [0xff0 | pointer, 1 << 7 | domain_reserved(config) << 8 | !0xff_ffff];
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(refused(FaultCode::LEGACY_CONTEXT_RESERVED));
    }
    let width = words[1] & 7;
    let valid = match kind {
        0 => config.has_width(width),
        1 => config.ecap_bit(2) && config.has_width(width),
        // AW is the largest that there is.
        2 => config.ecap_bit(6) && config.has_width(width) && !(width + 1..=3).any(|wider| config.has_width(wider)),
        _ => false,
    };
    if valid { Ok(context) } else { Err(refused(FaultCode::LEGACY_CONTEXT_INVALID)) }
}

fn scalable(view: &mut dyn View, rtaddr: u64, config: &Config, request: &Request) -> Result<Context, Refused> {
    let (bus, devfn) = (u64::from(request.requester >> 8), u64::from(request.requester & 0xff));
    let [root] = fetch(view, Structure::Root, at(rtaddr, bus * 16 + (devfn >> 7) * 8))
        .ok_or(Refused::loud(FaultCode::ROOT_ACCESS))?;
    if root & 1 == 0 {
        return Err(Refused::loud(FaultCode::ROOT_NOT_PRESENT));
    }
    if root & (0xffe | beyond(config.haw)) != 0 {
        return Err(Refused::loud(FaultCode::ROOT_RESERVED));
    }
    let words = fetch(view, Structure::Context, at(root, (devfn & 0x7f) * 32))
        .ok_or(Refused::loud(FaultCode::CONTEXT_ACCESS))?;
    let context = Context { words, legacy: false };
    let refused = |code| Refused { code, silent: context.silent() };
    if words[0] & 1 == 0 {
        return Err(refused(FaultCode::CONTEXT_NOT_PRESENT));
    }
    // HPTE is of host permission tables, which are not modelled.
    let mut reserved = [0x1a0 | beyond(config.haw), !0x1f_ffff, !0, !0];
    // What the unit does not have: DTE, PASIDE, PRE, EPTR; RID_PASID, RID_PRIV.
    for (ecap, word, bits) in [(2, 0, 1 << 2), (40, 0, 1 << 3), (29, 0, 1 << 4), (56, 0, 1 << 6)] {
        reserved[word] |= if config.ecap_bit(ecap) { 0 } else { bits };
    }
    for (ecap, bits) in [(49, 0xf_ffff), (53, 1 << 20)] {
        reserved[1] |= if config.ecap_bit(ecap) { 0 } else { bits };
    }
    if words.iter().zip(reserved).any(|(word, reserved)| word & reserved != 0) {
        return Err(refused(FaultCode::CONTEXT_RESERVED));
    }
    let bit = |bit: u32| words[0] >> bit & 1 != 0;
    // PRE needs DTE, EPTR needs PASIDE, RID_PASID an entry in the directory.
    if bit(4) && !bit(2) || bit(6) && !bit(3) || rid_pasid(&context) >= pasids(&context) {
        return Err(refused(FaultCode::CONTEXT_INVALID));
    }
    Ok(context)
}

/// Number of PASIDs in the directory.
fn pasids(context: &Context) -> u32 {
    1 << ((context.words[0] >> 9 & 7) + 13)
}

/// The PASID of requests without; 0 where the unit has no such field, which is reserved then.
fn rid_pasid(context: &Context) -> u32 {
    context.words[1] as u32 & 0xf_ffff
}

/// What `context` does with a request.
pub(in crate::vtd) fn admit(config: &Config, context: &Context, request: &Request) -> Result<Admission, Refused> {
    let refused = |code| Err(Refused { code, silent: context.silent() });
    let ats = request.address != AddressType::Untranslated;
    let host = || {
        let (wide, interrupt) = if context.legacy {
            (FaultCode::LEGACY_BEYOND_WIDTH, FaultCode::LEGACY_INTERRUPT_OUTPUT)
        } else {
            (FaultCode::BEYOND_HOST, FaultCode::INTERRUPT_OUTPUT)
        };
        match request.iova.get() {
            address if address & beyond(config.haw) != 0 => refused(wide),
            address if is_interrupt(address) => refused(interrupt),
            _ => Ok(Admission::Translated),
        }
    };
    if context.legacy {
        return match request.address {
            _ if ats && context.translation_type() != 1 => refused(FaultCode::LEGACY_BLOCKED),
            AddressType::Translated => host(),
            _ => Ok(Admission::Legacy),
        };
    }
    let bit = |bit: u32| context.words[0] >> bit & 1 != 0;
    if ats && !bit(2) {
        return refused(FaultCode::DEVICE_TLB_DISABLED);
    }
    let translated = request.address == AddressType::Translated;
    let pasid = match request.pasid {
        None => rid_pasid(context),
        Some(_) if !bit(3) && !translated => return refused(FaultCode::PASID_DISABLED),
        Some(_) if translated && !bit(6) => return refused(FaultCode::TRANSLATED_PASID),
        Some(pasid) if pasid >= pasids(context) => return refused(FaultCode::PASID_TOO_LARGE),
        Some(pasid) if pasid == rid_pasid(context) => return refused(FaultCode::RID_PASID),
        Some(pasid) if pasid >> config.pasid_width() != 0 => return refused(FaultCode::PASID_BEYOND_UNIT),
        Some(pasid) => pasid,
    };
    if request.executes() && config.version >> 4 >= 8 {
        return refused(FaultCode::NO_EXECUTE_REQUESTS);
    }
    if translated { host() } else { Ok(Admission::Pasid(pasid)) }
}
