//! What entries with one domain id must have in common (sections 6.2.2.1 and 6.2.3.1), or the caches mix them up.

use crate::vtd::unit::Unit;
use crate::vtd::violation::Violation;
use crate::vtd::walk::Regime;

/// Whether two entries may have one domain id.
fn agree(this: &Regime, other: &Regime) -> bool {
    let ([first, second], [other_first, other_second]) = (this.tables(), other.tables());
    if this.legacy {
        return second == other_second;
    }
    // First stages and pass-through have no second stage, so they agree with nothing that has one.
    let same_pasid = this.pasid != other.pasid || (this.kind, first) == (other.kind, other_first);
    second == other_second && same_pasid
}

impl Unit {
    /// Looks at what was just cached for `requester` beside all that was cached before.
    pub(in crate::vtd) fn check_domain(&mut self, requester: u16, regime: Option<Regime>) {
        let Some(regime) = regime else { return };
        let domain = regime.domain;
        if domain == 0 && self.config.caching() {
            self.violations.push(Violation::DomainReserved { requester });
        }
        let shared = if regime.legacy {
            let contexts = self.caches.contexts.values().filter_map(|context| context.ok());
            let mut others = contexts.filter(|context| context.legacy && context.domain() == Some(domain));
            others.any(|other| !agree(&regime, &Regime::of_context(&self.config, &other)))
        } else {
            let mut others = self.caches.pasids.values().filter_map(|cached| cached.regime);
            others.any(|other| other.domain == domain && !agree(&regime, &other))
        };
        if shared {
            self.violations.push(Violation::DomainShared { domain });
        }
    }
}
