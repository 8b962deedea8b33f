//! What a guest says of its own stage 1, word by word, and what of it is believed.
//!
//! # Stage 1
//!
//! [`NestedConfig`] of kind [`STREAM_ENTRY`] has two words: words 0 and 1 of the guest's stream table entry. Of these count
//! V, Config, S1Fmt, S1ContextPtr and S1CDMax; S1DSS, S1CIR, S1COR, S1CSH, S1STALLD and EATS. All other bits must be 0.
//!
//! | The guest's entry | What its streams meet |
//! |---|---|
//! | V = 0, or Config 0 to 3 | nothing: every access is aborted |
//! | Config 4 | the parent alone |
//! | Config 5 | the guest's stage 1, then the parent |
//! | Config 6 and 7 | refused: a guest has no stage 2 |
//!
//! Addresses in the guest's entry, context descriptors and tables are the parent's input addresses. With substreams
//! (S1CDMax) requests with PASID go through the guest's context descriptors, too. EATS may be 0 or 1, and is 1 in hardware
//! only where the unit was told of a device TLB of the function. Where the parent was not made to stall accesses, the
//! guest's stage 1 does not either, whatever its descriptors say.
//!
//! # Requests
//!
//! [`Invalidation`] of kind [`COMMAND`] is a command as the guest writes it to a queue of its own: CMD_CFGI_STE, CMD_CFGI_CD,
//! CMD_CFGI_CD_ALL, CMD_TLBI_NH_ALL, CMD_TLBI_NH_ASID, CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA, CMD_ATC_INV. Stream ids and VMIDs are
//! those of the guest's streams, whatever it says. (A guest that changed its stream table entry gets another
//! [`Nested`](iommu_core::hw::Nested); CMD_CFGI_STE drops the context descriptors alone.)
//!
//! What hardware is asked for covers the request and may cover more, but never anything that is not cached for these
//! streams or under the parent's VMID: a guest can only make its own devices slower. Nothing that the host changes is left to
//! the guest's requests.

use crate::capabilities::Capabilities;
use crate::invalidate::GuestRequest;
use crate::spec::command::{AtcPages, Pages, Range, opcode};
use crate::spec::ste::{NestedEntry, Stage2Entry, SteWord0, SteWord1, StreamConfig, StreamEntry};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{HwError, Invalidation, NestedConfig, Pasid};

/// Kind of a [`NestedConfig`]: words 0 and 1 of a guest's stream table entry.
pub const STREAM_ENTRY: u32 = 0x534d_4d55;

/// Kind of an [`Invalidation`]: a guest's command.
pub const COMMAND: u32 = 0x534d_4d43;

/// What a guest may say in word 0: V, Config, S1Fmt, S1ContextPtr, S1CDMax.
const WORD0: u64 = 0xf | 3 << 4 | 0x000f_ffff_ffff_ffc0 | 0x1f << 59;
/// The same in word 1: S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS.
const WORD1: u64 = 0xff | 1 << 27 | 3 << 28;

const fn wrong<T>(what: &'static str) -> Result<T, HwError> {
    Err(HwError::Hardware(what))
}

/// The entry that leads through what `config` says and then through `stage2`, whose input addresses are `aperture`.
pub(super) fn entry(
    config: &NestedConfig<'_>,
    caps: &Capabilities,
    stage2: Stage2Entry,
    aperture: IovaRange,
) -> Result<StreamEntry, HwError> {
    if config.kind != STREAM_ENTRY {
        return Err(HwError::Unsupported("this kind of nested translation"));
    }
    let &[raw0, raw1] = config.words else {
        return wrong("a guest's stream table entry that is not two words");
    };
    if raw0 & !WORD0 != 0 || raw1 & !WORD1 != 0 {
        return wrong("bits of a guest's stream table entry that are not the guest's");
    }
    let (word0, word1) = (SteWord0::from(raw0), SteWord1::from(raw1));
    const ONE: u8 = StreamConfig::Stage1 as u8;
    const BYPASS: u8 = StreamConfig::Bypass as u8;
    match word0.config() {
        _ if !word0.valid() => return Ok(StreamEntry::Abort),
        0..=3 => return Ok(StreamEntry::Abort),
        BYPASS => return Ok(StreamEntry::Stage2(stage2)),
        ONE => {}
        _ => return wrong("a guest's stream table entry with a stage 2"),
    }
    check_contexts(word0, word1, caps, aperture)?;
    if word1.context_shareability() == 1 {
        return wrong("STE.S1CSH of a guest, which is reserved");
    }
    if word1.stage1_stall_disable() && !caps.must_disable_stalls() {
        return wrong("STE.S1STALLD of a guest, where SMMU_IDR0.STALL_MODEL is not 0");
    }
    match word1.ats() {
        0 => {}
        1 if !caps.ats() => return wrong("STE.EATS of a guest, without SMMU_IDR0.ATS"),
        1 if stage2.stall => return wrong("STE.EATS of a guest on a stage 2 that stalls accesses"),
        1 => {}
        _ => return wrong("STE.EATS of a guest that is neither 0 nor 1"),
    }
    let plain = word0.context_count_log2() == 0;
    // Ignored then, and not to be found later.
    let guest0 = if plain { word0.with_context_format(0) } else { word0 };
    let guest1 = if plain { word1.with_default_substream(0) } else { word1 };
    let stall_disable = word1.stage1_stall_disable() || caps.must_disable_stalls() && !stage2.stall;
    Ok(StreamEntry::Nested(NestedEntry {
        guest0: guest0.with_valid(false).with_config(0).into(),
        guest1: guest1.with_ats(0).with_stage1_stall_disable(stall_disable).into(),
        guest_ats: word1.ats() == 1,
        stage2,
    }))
}

/// Checks what leads to a guest's context descriptors.
fn check_contexts(word0: SteWord0, word1: SteWord1, caps: &Capabilities, aperture: IovaRange) -> Result<(), HwError> {
    let count = word0.context_count_log2();
    if count > caps.substream_bits() {
        return wrong("STE.S1CDMax of a guest beyond SMMU_IDR1.SSIDSIZE");
    }
    if count != 0 && word1.default_substream() == 3 {
        return wrong("STE.S1DSS of a guest, which is reserved");
    }
    // log2 of the bytes that S1ContextPtr leads to; a first level has 8 bytes an entry.
    let bytes_log2 = match word0.context_format() {
        _ if count == 0 => 6,
        0 => count + 6,
        1 | 2 if !caps.two_level_contexts() => return wrong("STE.S1Fmt of a guest, without SMMU_IDR0.CD2L"),
        1 => (count.saturating_sub(6) + 3).max(6),
        2 => (count.saturating_sub(10) + 3).max(6),
        _ => return wrong("STE.S1Fmt of a guest, which is reserved"),
    };
    let (pointer, bytes) = (word0.context() << 6, 1 << bytes_log2);
    if pointer % bytes != 0 {
        return wrong("STE.S1ContextPtr of a guest that is not aligned to its table");
    }
    match IovaRange::from_len(Iova::new(pointer), bytes) {
        Some(table) if aperture.covers(table) => Ok(()),
        _ => wrong("STE.S1ContextPtr of a guest beyond its parent's aperture"),
    }
}

const SUBSTREAM: u64 = 0xf_ffff << 12;
const SUBSTREAM_VALID: u64 = 1 << 11;
const GLOBAL: u64 = 1 << 9;
const STREAM: u64 = 0xffff_ffff << 32;
const VMID: u64 = 0xffff << 32;
const ASID: u64 = 0xffff << 48;
/// NUM and SCALE.
const RANGE: u64 = 0x1f << 12 | 0x1f << 20;
const LEAF: u64 = 1;
/// TTL and TG.
const LEVEL: u64 = 3 << 8 | 3 << 10;
const ADDRESS: u64 = !0xfff;
/// log2 of the bytes that a range may cover; beyond that everything goes.
const MOST_LOG2: u32 = 48;

/// What a guest's command asks for, on a unit with these capabilities that serves PASIDs of `pasid_bits` bits.
pub(crate) fn request(request: &Invalidation, caps: &Capabilities, pasid_bits: u8) -> Result<GuestRequest, HwError> {
    if request.kind != COMMAND {
        return Err(HwError::Unsupported("this kind of request"));
    }
    let [low, high] = request.words;
    let (low_bits, high_bits) = match low as u8 {
        opcode::CFGI_STE => (STREAM, LEAF),
        opcode::CFGI_CD => (SUBSTREAM | STREAM, LEAF),
        opcode::CFGI_CD_ALL => (STREAM, 0),
        opcode::TLBI_NH_ALL => (VMID, 0),
        opcode::TLBI_NH_ASID => (VMID | ASID, 0),
        opcode::TLBI_NH_VA => (VMID | ASID | RANGE, LEAF | LEVEL | ADDRESS),
        opcode::TLBI_NH_VAA => (VMID | ASID | RANGE, LEAF | LEVEL | ADDRESS),
        opcode::ATC_INV => (GLOBAL | SUBSTREAM_VALID | SUBSTREAM | STREAM, 0x3f | ADDRESS),
        _ => return Err(HwError::Unsupported("this command of a guest")),
    };
    if low & !(low_bits | 0xff) != 0 || high & !high_bits != 0 {
        return wrong("reserved bits in a command of a guest");
    }
    let (index, asid, leaf) = ((low >> 12) as u32 & 0xf_ffff, (low >> 48) as u16, high & LEAF != 0);
    let wide_asid = asid >> 8 != 0 && caps.asid_bits() == 8;
    Ok(match low as u8 {
        opcode::CFGI_STE | opcode::CFGI_CD_ALL => GuestRequest::Contexts,
        opcode::CFGI_CD if index >> caps.substream_bits() != 0 => return wrong("a substream that the unit has not"),
        opcode::CFGI_CD => GuestRequest::Context { index, leaf },
        opcode::TLBI_NH_ALL => GuestRequest::All,
        opcode::TLBI_NH_ASID | opcode::TLBI_NH_VA if wide_asid => return wrong("an ASID that the unit has not"),
        opcode::TLBI_NH_ASID => GuestRequest::Asid(asid),
        opcode::TLBI_NH_VA => pages(Some(asid), low, high, caps)?,
        opcode::TLBI_NH_VAA => pages(None, low, high, caps)?,
        _ => device(low, high, caps, pasid_bits)?,
    })
}

/// Addresses of one ASID or of all. What a guest says of the level of its leaves is not relied upon.
fn pages(asid: Option<u16>, low: u64, high: u64, caps: &Capabilities) -> Result<GuestRequest, HwError> {
    let (num, scale) = ((low >> 12 & 0x1f) as u8, (low >> 20 & 0x1f) as u8);
    let granule = (high >> 10 & 3) as u8;
    if (granule == 0 || !caps.range_invalidation()) && (low & RANGE != 0 || high & LEVEL != 0) {
        return wrong("a range in a command of a guest, without SMMU_IDR3.RIL or without TG");
    }
    let leaves_only = high & LEAF != 0;
    let granule_log2 = 10 + 2 * u32::from(granule);
    if u32::from(scale) + granule_log2 + 5 > MOST_LOG2 {
        // Not those of the ASID alone: by address global entries go, too (section 4.4.2.4).
        return Ok(GuestRequest::All);
    }
    let one = granule == 0 || (num, scale) == (0, 0);
    let address = if granule == 0 { high & ADDRESS } else { high >> granule_log2 << granule_log2 };
    let range = (!one).then_some(Range { granule, num, scale, level: 0 });
    Ok(GuestRequest::Pages { asid, pages: Pages { address, leaves_only, range } })
}

/// Addresses in device TLBs.
fn device(low: u64, high: u64, caps: &Capabilities, pasid_bits: u8) -> Result<GuestRequest, HwError> {
    if !caps.ats() {
        return wrong("CMD_ATC_INV of a guest, without SMMU_IDR0.ATS");
    }
    let index = (low >> 12) as u32 & 0xf_ffff;
    let pasid = if low & SUBSTREAM_VALID != 0 { Pasid::new(index) } else { None };
    if pasid.is_some_and(|pasid| pasid.get() >> pasid_bits != 0) {
        return wrong("a substream that the unit has not");
    }
    let pages = match (high & 0x3f) as u8 {
        52 => AtcPages::ALL,
        size @ 0..52 => AtcPages { address: high >> (12 + size) << (12 + size), size },
        _ => return wrong("CMD_ATC_INV of a guest of more than there is"),
    };
    Ok(GuestRequest::Device { pasid, global: low & GLOBAL != 0, pages })
}

#[cfg(test)]
mod tests;
