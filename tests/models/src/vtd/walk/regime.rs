//! What a context entry or a PASID table entry asks of the page walks.

use super::context::Context;
use super::pasid::PasidEntry;
use super::{FaultCode, Refused, Request};
use crate::vtd::Config;

/// The second stage of a regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Second {
    pub(super) table: u64,
    pub(super) levels: u32,
    /// Width of its input in bits.
    pub(super) input_bits: u32,
    /// SSADE: accessed and dirty bits are set.
    pub(super) tracked: bool,
    pub(super) snooped: bool,
    /// SSEE: bit 2 of entries is a right.
    pub(super) execute: bool,
    /// EMTE: memory types in leaves count.
    pub(super) types: bool,
    pub(super) legacy: bool,
}

/// The first stage of a regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct First {
    pub(super) table: u64,
    pub(super) levels: u32,
    pub(super) snooped: bool,
    /// EAFE: bit 10 of entries is set together with the accessed bit.
    pub(super) extended: bool,
    /// NXE: bit 63 of entries takes execution away.
    pub(super) no_execute: bool,
}

/// Everything that page walks take from the structures before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regime {
    /// PGTT: 1 first stage, 2 second stage, 3 nested, 4 pass-through. Legacy mode has 2 and 4.
    pub kind: u64,
    /// Whether it is of legacy mode.
    pub legacy: bool,
    /// Domain id, which tags what is cached.
    pub domain: u16,
    /// PASID, which tags what is cached; `None` in legacy mode.
    pub pasid: Option<u32>,
    /// FPD on the way.
    pub silent: bool,
    /// PGSNP: accesses snoop, whatever the request says.
    pub page_snoop: bool,
    pub(super) first: Option<First>,
    pub(super) second: Option<Second>,
    /// RID_PRIV: requests without PASID are a supervisor's.
    pub(super) privileged: bool,
    /// SRE.
    supervisor: bool,
    /// ERE.
    execute: bool,
    /// WPE: supervisors keep to R/W of the first stage.
    pub(super) write_protect: bool,
    /// SMEP: supervisors do not execute users' pages.
    pub(super) execute_protect: bool,
}

impl Regime {
    /// Levels of the second stage; `None` where there is none.
    pub(in crate::vtd) fn second_levels(&self) -> Option<u32> {
        self.second.map(|second| second.levels)
    }

    /// Top tables and their depths: equal where two entries with one domain id must be equal.
    pub(in crate::vtd) fn tables(&self) -> [Option<(u64, u32)>; 2] {
        let first = self.first.map(|first| (first.table, first.levels));
        [first, self.second.map(|second| (second.table, second.levels))]
    }

    /// What a context entry of legacy mode asks for.
    pub(in crate::vtd) fn of_context(config: &Config, context: &Context) -> Self {
        let (width, kind) = (context.words[1] & 7, context.translation_type());
        let second = Second {
            table: context.words[0] & !0xfff,
            levels: width as u32 + 2,
            input_bits: config.input_bits(width),
            tracked: false,
            snooped: config.ecap_bit(0),
            execute: false,
            types: false,
            legacy: true,
        };
        Self {
            kind: if kind == 2 { 4 } else { 2 },
            legacy: true,
            domain: (context.words[1] >> 8) as u16,
            pasid: None,
            silent: context.silent(),
            page_snoop: false,
            first: None,
            second: (kind != 2).then_some(second),
            privileged: false,
            supervisor: true,
            execute: false,
            write_protect: false,
            execute_protect: false,
        }
    }

    /// What a PASID table entry asks for, reached by `context`.
    pub(in crate::vtd) fn of_pasid(config: &Config, context: &Context, entry: &PasidEntry) -> Self {
        let snooped = entry.bit(64 + 23);
        let second = Second {
            table: entry.words[0] & !0xfff,
            levels: entry.width() as u32 + 2,
            input_bits: config.input_bits(entry.width()),
            tracked: entry.bit(9),
            snooped,
            execute: entry.bit(5),
            types: entry.bit(64 + 26),
            legacy: false,
        };
        let first = First {
            table: entry.words[2] & !0xfff,
            levels: if entry.words[2] >> 2 & 3 == 1 { 5 } else { 4 },
            snooped,
            extended: entry.bit(128 + 7),
            no_execute: entry.bit(128 + 5),
        };
        Self {
            kind: entry.kind(),
            legacy: false,
            domain: entry.domain(),
            pasid: Some(entry.pasid),
            silent: entry.silent,
            page_snoop: entry.bit(64 + 24),
            first: matches!(entry.kind(), 1 | 3).then_some(first),
            second: matches!(entry.kind(), 2 | 3).then_some(second),
            privileged: context.words[1] >> 20 & 1 != 0,
            supervisor: entry.bit(128),
            execute: entry.bit(128 + 1),
            write_protect: entry.bit(128 + 4),
            execute_protect: entry.bit(128 + 6),
        }
    }

    /// Whether a request has supervisor privilege.
    pub(in crate::vtd) const fn is_privileged(&self, request: &Request) -> bool {
        match request.pasid {
            Some(_) => request.privileged,
            None => self.privileged,
        }
    }

    /// Whether requests of this kind are let in at all (conditions SPT.5 and SPT.6).
    pub(in crate::vtd) fn admit(&self, request: &Request) -> Result<(), Refused> {
        let refused = |code| Err(Refused { code, silent: self.silent });
        if request.executes() && !self.execute {
            return refused(FaultCode::EXECUTE_DISABLED);
        }
        if self.is_privileged(request) && !self.supervisor {
            return refused(FaultCode::SUPERVISOR_DISABLED);
        }
        Ok(())
    }
}
