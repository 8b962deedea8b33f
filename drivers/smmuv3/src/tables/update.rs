//! How a stream table entry or a context descriptor becomes another while hardware may read it (section 3.21.3).
//!
//! Hardware reads 64 bits at a time, each word whenever it likes, and goes on with what it has read until a CFGI command and
//! the CMD_SYNC behind it. So whatever it makes of an entry is made of words that were stored at different moments since the
//! last of these. What it does not use may change at any time. Where what it uses is in one word, or is to be, an entry
//! changes in three steps, each followed by its CFGI and CMD_SYNC:
//!
//! 1. the bits that the entry does not use as it is get the values that they are to have;
//! 2. the one word that still differs is stored;
//! 3. the bits that the entry uses no more get the values that they are to have.
//!
//! At every moment the entry is the old one or the new one. Any other change goes through an entry that uses nothing but the
//! word that says so: one that is not valid, or that aborts.

use crate::spec::cd::CONTEXT_VALID;
use crate::spec::ste::StreamConfig;

/// 64-bit words of a stream table entry, or of a context descriptor.
pub(crate) const WORDS: usize = 8;

/// An entry's words.
pub(crate) type Words = [u64; WORDS];

/// How an entry becomes another without being anything else in between. Each step is confirmed before the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// The entry once the bits that it does not use are set; `None` where they are as they should be.
    pub(crate) prepared: Option<Words>,
    /// The one word that makes it the other, and its value; `None` where it is the other already.
    pub(crate) switch: Option<(usize, u64)>,
    /// The entry once the bits that it uses no more are set; `None` where they are as they should be.
    pub(crate) tidy: Option<Words>,
}

impl Plan {
    /// How the entry `now` becomes `to`, where hardware uses of an entry the bits that `used` says; `None` where it cannot be
    /// done but through an entry that uses nothing.
    pub(crate) fn of(now: &Words, to: &Words, used: fn(&Words) -> Words) -> Option<Self> {
        let (used_now, used_then) = (used(now), used(to));
        let mut prepared: Words = core::array::from_fn(|at| now[at] & used_now[at] | to[at] & !used_now[at]);
        let mut differing = (0..WORDS).filter(|at| (prepared[*at] ^ to[*at]) & used_then[*at] != 0);
        let Some(at) = differing.next() else {
            return Some(Self { prepared: None, switch: None, tidy: None });
        };
        if differing.next().is_some() {
            return None;
        }
        // That word is stored whole in any case.
        prepared[at] = now[at];
        let mut switched = prepared;
        switched[at] = to[at];
        Some(Self {
            prepared: (prepared != *now).then_some(prepared),
            switch: Some((at, to[at])),
            tidy: (switched != *to).then_some(*to),
        })
    }
}

const V: u64 = 1;
const CONFIG: u64 = 7 << 1;
const S1FMT: u64 = 3 << 4;
const S1CONTEXTPTR: u64 = 0x00ff_ffff_ffff_ffc0;
const S1CDMAX: u64 = 0x1f << 59;
const S1DSS: u64 = 3;
/// S1CIR, S1COR, S1CSH.
const S1_FETCH: u64 = 0x3f << 2;
/// S1PIE, S1MPAM, S1STALLD and STRW.
const S1_OTHER: u64 = 1 << 24 | 1 << 26 | 1 << 27 | 3 << 30;
/// S2HWU59 to 62 and S2FWB.
const S2_WORD1: u64 = 0xf << 8 | 1 << 25;
const EATS: u64 = 3 << 28;
/// MemAttr, MTCFG and SHCFG: what accesses have that stage 1 does not translate.
const INCOMING: u64 = 0x1f << 32 | 3 << 44;
/// SW_RESERVED.
const FREE: u64 = 0xf << 20;
const S2VMID: u64 = 0xffff;
const S2S: u64 = 1 << 57;

/// The bits of a stream table entry that hardware uses: those that section 5.2 does not let it ignore. Nothing that this says
/// depends on a bit of which it says that it is not used.
pub(crate) fn used_of_entry(words: &Words) -> Words {
    let [word0, word1, ..] = *words;
    let mut used = [0; WORDS];
    used[0] = V;
    if word0 & V == 0 {
        return used;
    }
    used[0] |= CONFIG;
    let config = (word0 & CONFIG) >> 1;
    if config & StreamConfig::Bypass as u64 == 0 {
        return used;
    }
    let (first, second) = (config & 1 != 0, config & 2 != 0);
    // What belongs to neither stage is the same in all entries of this driver.
    used[1] = !(S1DSS | S1_FETCH | S1_OTHER | S2_WORD1 | EATS | INCOMING | FREE);
    [used[4], used[5], used[6], used[7]] = [u64::MAX; 4];
    let mut bypass = !first;
    if first {
        used[0] |= S1CONTEXTPTR | S1CDMAX;
        used[1] |= S1_FETCH | S1_OTHER;
        // Translations of stage 1 alone are tagged with S2VMID, too, and EATS may be looked at together with S2S.
        used[2] |= S2VMID | S2S;
        if word0 & S1CDMAX != 0 {
            used[0] |= S1FMT;
            used[1] |= S1DSS;
            bypass = word1 & S1DSS == 1;
        }
    }
    if second {
        used[1] |= S2_WORD1;
        (used[2], used[3]) = (u64::MAX, u64::MAX);
    }
    if first || second {
        used[1] |= EATS;
    }
    if bypass {
        used[1] |= INCOMING;
    }
    used
}

/// The bits of a context descriptor that hardware uses: all, where it is valid.
pub(crate) fn used_of_context(words: &Words) -> Words {
    match words[0] & CONTEXT_VALID {
        0 => [CONTEXT_VALID, 0, 0, 0, 0, 0, 0, 0],
        _ => [u64::MAX; WORDS],
    }
}

#[cfg(test)]
mod tests;
