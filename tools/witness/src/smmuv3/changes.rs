//! What a change of a stream's tables must show in the trace, from the architecture's update protocol of stream table
//! entries (section 3.21), and written apart from the driver.
//!
//! The trace shows no stores, so this is about which invalidations there are and in which order:
//!
//! - An entry that aborted and is to lead somewhere: its words that do not matter yet are written, then
//!   CMD_CFGI_STE and CMD_SYNC; the one word that decides, then the same again. Entries that abort may have been cached;
//!   context descriptors behind them were forgotten when the stream last led somewhere, and cannot have been read since.
//! - An entry that led somewhere and aborts from now on: CMD_CFGI_STE and CMD_SYNC, then what drops the translations of
//!   the old ASID or VMID, then CMD_SYNC. Without the first CMD_SYNC translations could come back by the old entry. For
//!   stage 1 the context descriptor is forgotten by name, before the translations.
//! - From one domain to another: both, the second after the first. (A single entry may be replaced in fewer steps, which
//!   the demo does not ask for here; the rule is the strict one.)
//! - A guest's stage 1 on top of stage 2 is either of the above with context descriptors and the VMID of stage 2. The guest
//!   may change its entry, though, in one word only: that must show what a detach shows.

use crate::dialect::{Change, Regime, Step};
use crate::event::Stage;

/// The sequences that `change` must show, each of them.
pub fn required(change: Change, regime: Regime) -> Vec<Vec<Step>> {
    const STREAM: Step = Step::StreamCache(None);
    const CONTEXT: Step = Step::PasidCache(None);
    let confirmed = |step: Step| [step, Step::Wait];
    let attach = || [confirmed(STREAM), confirmed(STREAM)].concat();
    let detach = |cache: Step, domain| [confirmed(cache), confirmed(Step::Tlb(domain, regime.tagged_by()))].concat();
    let caches = if regime == Regime::One(Stage::Second) { &[STREAM][..] } else { &[STREAM, CONTEXT] };
    let each = |domain| caches.iter().map(move |cache| detach(*cache, domain));
    match change {
        Change::Attach => vec![attach()],
        Change::Detach(domain) => each(domain).collect(),
        Change::Move(domain) if regime == Regime::Nested => each(domain).collect(),
        Change::Move(domain) => {
            let mut all: Vec<_> = each(domain).collect();
            all.iter_mut().take(1).for_each(|of_stream| of_stream.extend(attach()));
            all
        }
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
