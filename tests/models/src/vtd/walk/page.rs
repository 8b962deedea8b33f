//! The page walks of one request.

use super::regime::Regime;
use super::view::Rights;
use super::{Config, FaultCode, Operation, Refused, Request, Stop, View, beyond, first, is_interrupt, second};

/// How often a walk begins anew because an entry changed under it before it gives up.
const TRIES: usize = 8;

/// A leaf that was found: what the IOTLB keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Address of its first byte.
    pub phys: u64,
    /// Size in bytes; in nested translation the smaller of two.
    pub size: u64,
    /// What the first stage allows.
    pub first: Rights,
    /// What the second stage allows.
    pub second: Rights,
    /// Whether a write needs no update of dirty bits any more.
    pub dirty: bool,
    /// PGSNP, or SNP of the second stage's leaf: accesses snoop.
    pub snoop: bool,
}

impl Leaf {
    /// Whether requests of a supervisor, or of a user, may read and write through it.
    pub(in crate::vtd) const fn allows(&self, regime: &Regime, privileged: bool) -> (bool, bool) {
        let first_write = self.first.write || privileged && !regime.write_protect;
        (self.second.read, first_write && self.second.write)
    }

    /// Whether it lets `request` through.
    pub(in crate::vtd) fn check(&self, config: &Config, regime: &Regime, request: &Request) -> Result<(), FaultCode> {
        self.check_rights(config, regime, request)?;
        let output = self.phys + (request.iova.get() & (self.size - 1));
        // A translation is of the whole leaf; one of what passes through is answered by its address alone.
        let last = self.phys + (self.size - 1);
        let leaf = self.phys >> 20 <= 0xfee && last >> 20 >= 0xfee;
        let blocked = if request.is_translation() { regime.kind != 4 && leaf } else { is_interrupt(output) };
        if blocked {
            return Err(if regime.legacy { FaultCode::LEGACY_INTERRUPT_OUTPUT } else { FaultCode::INTERRUPT_OUTPUT });
        }
        Ok(())
    }

    /// Whether its rights suffice. A translation request is answered with what is allowed instead, but privilege it
    /// needs all the same.
    fn check_rights(&self, config: &Config, regime: &Regime, request: &Request) -> Result<(), FaultCode> {
        let privileged = regime.is_privileged(request);
        if !self.first.user && !privileged {
            return Err(FaultCode::USER);
        }
        if request.is_translation() {
            return Ok(());
        }
        let (read, write) = self.allows(regime, privileged);
        let operation = request.operation;
        if operation.writes() && !write {
            return Err(if regime.legacy { FaultCode::LEGACY_WRITE } else { FaultCode::NO_WRITE });
        }
        // With CAP.ZLR write permission is enough for a zero-length read.
        let read = read || operation == Operation::ZeroLengthRead && config.cap_bit(22) && write;
        if operation.reads() && !read {
            return Err(if regime.legacy { FaultCode::LEGACY_READ } else { FaultCode::NO_READ });
        }
        let execute = self.first.execute && self.second.execute;
        if request.executes() && (!execute || privileged && regime.execute_protect && self.first.user) {
            return Err(FaultCode::NO_EXECUTE);
        }
        Ok(())
    }
}

/// Finds the leaf for a request, checks it, and sets accessed and dirty bits.
pub(in crate::vtd) fn page(
    view: &mut dyn View,
    config: &Config,
    regime: &Regime,
    request: &Request,
) -> Result<Leaf, Refused> {
    let silent = regime.silent;
    regime.admit(request)?;
    let mut failed = None;
    for _ in 0..TRIES {
        match once(view, config, regime, request) {
            Ok(leaf) => return Ok(leaf),
            Err(Stop::Fault(code)) => return Err(Refused { code, silent }),
            Err(Stop::Changed(code)) => failed = Some(code),
        }
    }
    Err(Refused { code: failed.unwrap_or(FaultCode::NONE), silent })
}

fn once(view: &mut dyn View, config: &Config, regime: &Regime, request: &Request) -> Result<Leaf, Stop> {
    let iova = request.iova.get();
    let Some(first) = &regime.first else { return direct(view, config, regime, request) };
    let privileged = regime.is_privileged(request);
    let mut found = first::walk(view, config, regime, first, privileged, iova)?;
    let mut leaf = Leaf {
        phys: found.output & !(found.size - 1),
        size: found.size,
        first: found.rights,
        second: Rights::ALL,
        dirty: found.dirty(),
        snoop: regime.page_snoop,
    };
    // What the first stage forbids is known before the second is asked.
    leaf.check_rights(config, regime, request)?;
    let mut below = match &regime.second {
        None => None,
        Some(second) => Some((second, second::walk(view, config, second, found.output, request.operation.writes())?)),
    };
    if let Some((second, below)) = &below {
        leaf.size = leaf.size.min(below.size);
        leaf.phys = below.phys & !(leaf.size - 1);
        leaf.second = below.rights;
        leaf.dirty &= below.dirty(second);
        leaf.snoop |= below.snoop;
    }
    leaf.check(config, regime, request)?;
    let write = writes(regime, request, &leaf);
    first::mark(view, config, regime, first, &mut found, write)?;
    if let Some((second, below)) = &mut below {
        second::mark(view, second, below, write)?;
    }
    leaf.dirty |= write;
    Ok(leaf)
}

/// Second stage alone, or none at all.
fn direct(view: &mut dyn View, config: &Config, regime: &Regime, request: &Request) -> Result<Leaf, Stop> {
    let iova = request.iova.get();
    let Some(second) = &regime.second else {
        if iova & beyond(config.haw) != 0 {
            let code = if regime.legacy { FaultCode::LEGACY_BEYOND_WIDTH } else { FaultCode::BEYOND_HOST };
            return Err(Stop::Fault(code));
        }
        let all = Rights::ALL;
        let (phys, snoop) = (iova & !0xfff, regime.page_snoop);
        let leaf = Leaf { phys, size: 0x1000, first: all, second: all, dirty: true, snoop };
        leaf.check(config, regime, request)?;
        return Ok(leaf);
    };
    let mut found = second::walk(view, config, second, iova, request.operation.writes())?;
    let mut leaf = Leaf {
        phys: found.phys & !(found.size - 1),
        size: found.size,
        first: Rights::ALL,
        second: found.rights,
        dirty: found.dirty(second),
        snoop: regime.page_snoop || found.snoop,
    };
    leaf.check(config, regime, request)?;
    let write = writes(regime, request, &leaf);
    second::mark(view, second, &mut found, write)?;
    leaf.dirty |= write;
    Ok(leaf)
}

/// Whether the request sets dirty bits. A translation for writing does, at once (section 4.2.3.1).
const fn writes(regime: &Regime, request: &Request, leaf: &Leaf) -> bool {
    request.operation.writes() && leaf.allows(regime, regime.is_privileged(request)).1
}
