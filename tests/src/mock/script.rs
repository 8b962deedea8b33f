//! Calls that are to fail, and how many there were.

use super::lock;
use iommu_core::hw::{HwError, Wait};
use std::sync::Mutex;

/// What the core calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Call {
    CreateDomain,
    Attach,
    CreateNested,
    Respond,
    Map,
    Unmap,
    Flush,
    Retire,
    Split,
    SetDirty,
    ReadDirty,
    Invalidate,
    InvalidateDevice,
    Pin,
    Read,
    Write,
    SetFeature,
    BusMaster,
    SetDeviceTlb,
}

const KINDS: usize = Call::SetDeviceTlb as usize + 1;

/// What a call that fails has done all the same. Only where hardware did not confirm may that be something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// All of it. An attach has left the stream blocked.
    Done,
}

/// How often each call was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts([u64; KINDS]);

impl Counts {
    /// How often `call` was made, failures included.
    pub fn of(&self, call: Call) -> u64 {
        self.0[call as usize]
    }

    /// All calls together.
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[derive(Clone, Copy)]
struct Plan {
    /// `None`: whichever call it is.
    call: Option<Call>,
    /// Calls that still succeed.
    left: u64,
    /// Fails from then on, not only once.
    ever: bool,
    error: HwError,
    effect: Effect,
}

/// Which calls of one stand-in fail. Domains share their unit's.
#[derive(Default)]
pub struct Script(Mutex<(Vec<Plan>, Counts)>);

impl Script {
    /// The call number `nth` from now on, counting from 0, of the kind `call` fails.
    pub fn fail(&self, call: Call, nth: u64, error: HwError, effect: Effect) {
        lock(&self.0).0.push(Plan { call: Some(call), left: nth, ever: false, error, effect });
    }

    /// The call number `nth` from now on, counting from 0, fails, whatever it is. With [`Effect::Done`] only calls that
    /// wait for hardware are counted.
    pub fn fail_any(&self, nth: u64, error: HwError, effect: Effect) {
        lock(&self.0).0.push(Plan { call: None, left: nth, ever: false, error, effect });
    }

    /// Every call of the kind `call` fails, from the one number `nth` on.
    pub fn fail_from(&self, call: Call, nth: u64, error: HwError, effect: Effect) {
        lock(&self.0).0.push(Plan { call: Some(call), left: nth, ever: true, error, effect });
    }

    /// No call is to fail any more. Returns whether some plan had not come to its call yet.
    pub fn succeed(&self) -> bool {
        let mut script = lock(&self.0);
        let left = script.0.iter().any(|plan| !plan.ever);
        script.0.clear();
        left
    }

    /// How often each call was made so far.
    pub fn counts(&self) -> Counts {
        lock(&self.0).1
    }

    /// Whether this call is to fail.
    pub(super) fn next(&self, call: Call) -> Result<(), (HwError, Effect)> {
        let mut script = lock(&self.0);
        let (plans, counts) = &mut *script;
        counts.0[call as usize] += 1;
        let mut failure = None;
        plans.retain_mut(|plan| {
            if plan.call.is_some_and(|kind| kind != call) || failure.is_some() {
                return true;
            }
            if plan.call.is_none() && plan.effect == Effect::Done && !call.waits() {
                return true;
            }
            if plan.left > 0 {
                plan.left -= 1;
                return true;
            }
            failure = Some((plan.error, plan.effect));
            plan.ever
        });
        failure.map_or(Ok(()), Err)
    }
}

impl Call {
    /// Whether hardware is waited for, so that the call may fail having done its work.
    fn waits(self) -> bool {
        !matches!(
            self,
            Self::CreateDomain | Self::CreateNested | Self::ReadDirty | Self::Pin | Self::Read | Self::Write
        )
    }
}

/// Whether after this error hardware may have done what was asked.
pub(super) fn unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}

impl Script {
    /// Hardware did not answer.
    pub const TIMED_OUT: HwError = HwError::TimedOut(Wait::Completion);
}
