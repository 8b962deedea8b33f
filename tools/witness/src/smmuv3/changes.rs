//! What a change of a stream's tables must show in the trace, from the architecture's update protocol of stream table
//! entries (section 3.21), and written apart from the driver.
//!
//! The trace shows no stores, so this is about which invalidations there are and in which order:
//!
//! - An entry that aborted and is to lead somewhere: its words that do not matter yet are written, then
//!   CMD_CFGI_STE and CMD_SYNC; the one word that decides, then the same again. For stage 1 the context descriptor is
//!   new as well: CMD_CFGI_CD and CMD_SYNC. Entries that abort may have been cached.
//! - An entry that led somewhere and aborts from now on: CMD_CFGI_STE and CMD_SYNC, then what drops the translations of
//!   the old ASID or VMID, then CMD_SYNC. Without the first CMD_SYNC translations could come back by the old entry. For
//!   stage 1 the context descriptor is forgotten by name, before the translations.
//! - From one domain to another: both, the second after the first. (A single entry may be replaced in fewer steps. No
//!   driver here does; the rule is the strict one.)

use crate::dialect::{Change, Step};
use crate::event::Stage;

/// The sequences that `change` must show, each of them.
pub fn required(change: Change, stage: Stage) -> Vec<Vec<Step>> {
    let confirmed = |step: Step| [step, Step::Wait];
    let attach = |cache: Step| match cache {
        Step::StreamCache(_) => [confirmed(cache), confirmed(cache)].concat(),
        _ => confirmed(cache).to_vec(),
    };
    let detach = |cache: Step, domain| [confirmed(cache), confirmed(Step::Tlb(domain, stage))].concat();
    let of = |cache: Step| match change {
        Change::Attach => attach(cache),
        Change::Move(domain) => [detach(cache, domain), attach(cache)].concat(),
        Change::Detach(domain) => detach(cache, domain),
    };
    match stage {
        Stage::First => vec![of(Step::StreamCache(None)), of(Step::PasidCache(None))],
        Stage::Second => vec![of(Step::StreamCache(None))],
    }
}

/// What a step is called.
pub fn name(step: Step) -> String {
    let of = |domain: Option<u16>, tag| domain.map_or(String::new(), |domain| format!(" of {tag} {domain:#x}"));
    match step {
        Step::StreamCache(_) => "CMD_CFGI_STE".into(),
        Step::PasidCache(_) => "CMD_CFGI_CD".into(),
        Step::Tlb(domain, Stage::First) => format!("TLB invalidation{}", of(domain, "ASID")),
        Step::Tlb(domain, Stage::Second) => format!("TLB invalidation{}", of(domain, "VMID")),
        Step::PasidTlb => "TLB invalidation".into(),
        Step::Wait => "CMD_SYNC".into(),
    }
}
