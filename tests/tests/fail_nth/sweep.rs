//! One operation again and again, each time with the next thing failing: an allocation, a call of a driver, a pin.

use crate::heap;
use crate::world::World;
use iommu_core::Error;
use iommu_core::hw::HwError;
use iommu_core::quota::Amounts;
use iommu_tests::figures;
use iommu_tests::mock::{Call, Effect, Script};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Operations and failures of this binary so far.
static OPERATIONS: AtomicUsize = AtomicUsize::new(0);
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// One allocation.
    Allocation,
    /// All allocations from one on.
    Allocations,
    /// One call of this kind to a unit or a function, by number, that is to make something.
    Driver(usize, Call),
    /// The first pin of a memory, after so many extents.
    Pin(usize),
}

/// Calls that make something, so that their failure is a matter of course. What takes away fails only where hardware does
/// not confirm.
const CALLS: [Call; 9] = [
    Call::CreateDomain,
    Call::Attach,
    Call::CreateNested,
    Call::Map,
    Call::Split,
    Call::SetDirty,
    Call::SetFeature,
    Call::BusMaster,
    Call::SetDeviceTlb,
];

const ERROR: HwError = HwError::Hardware("on demand");

/// More of anything than an operation here needs.
const ENOUGH: usize = 400;

/// How much failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failures {
    pub allocations: usize,
    pub calls: usize,
    pub pins: usize,
}

/// Runs `does` in a world of its own for each thing that can fail. What failed has changed nothing that can be seen, and
/// succeeds afterwards with the same result as where nothing failed; all memory comes back.
pub fn sweep<T>(name: &str, makes: impl Fn() -> World, does: impl Fn(&World) -> Result<T, Error>) -> Failures {
    // What is made once and for all is no leak of what follows.
    drop(does(&makes()));
    let live = heap::live();
    let (before, after) = {
        let world = makes();
        let before = world.snapshot();
        let kept = does(&world).unwrap_or_else(|error| panic!("{name}: {error:?} with nothing failing"));
        let after = world.snapshot();
        drop(kept);
        (before, after)
    };
    let count = |mode| {
        let failed = |n: &usize| once(name, mode, *n, &makes, &does, (&before, &after));
        let failures = (0..ENOUGH).take_while(failed).count();
        assert!(failures < ENOUGH, "{name}: {mode:?} still fails");
        failures
    };
    let stand_ins = makes().scripts().len();
    let memories = makes().memories.len();
    let drivers = (0..stand_ins).flat_map(|at| CALLS.map(|call| (at, call)));
    let failures = Failures {
        allocations: count(Mode::Allocation) + count(Mode::Allocations),
        calls: drivers.map(|(at, call)| count(Mode::Driver(at, call))).sum(),
        pins: (0..memories).map(|at| count(Mode::Pin(at))).sum(),
    };
    drop((before, after));
    assert_eq!(heap::live(), live, "{name}: bytes are lost");
    let Failures { allocations, calls, pins } = failures;
    let all = FAILURES.fetch_add(allocations + calls + pins, Ordering::Relaxed) + allocations + calls + pins;
    let operations = OPERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
    figures::print(&format!(
        "{name}: {allocations} allocations, {calls} calls, {pins} pins failed; so far {operations} operations, {all} failures"
    ));
    failures
}

/// One try. Whether anything failed that was asked for.
fn once<T>(
    name: &str,
    mode: Mode,
    n: usize,
    makes: &impl Fn() -> World,
    does: &impl Fn(&World) -> Result<T, Error>,
    (before, after): (&[String], &[String]),
) -> bool {
    let live = heap::live();
    let world = makes();
    let context = format!("{name}, {mode:?} {n}");
    compare(&context, "made anew", &world.snapshot(), before);
    let (result, failed) = world.failing(mode, n, does);
    match result {
        Ok(kept) => {
            // Either nothing failed, or the operation knew how to do without, which may cost other records.
            let found = world.snapshot();
            let lines = if failed { found.len() - 1 } else { found.len() };
            compare(&context, "in the end", &found[..lines], &after[..lines]);
            drop(kept);
        }
        Err(error) => {
            assert!(failed, "{context}: {error:?}, and nothing failed");
            assert!(mode.explains(error), "{context}: {error:?}");
            let found = world.snapshot();
            let records = found.len() - 1;
            compare(&context, "after the failure", &found[..records], &before[..records]);
            let kept = does(&world).unwrap_or_else(|error| panic!("{context}: {error:?} the second time"));
            compare(&context, "after the second time", &world.snapshot(), after);
            drop(kept);
        }
    }
    let accounts = world.accounts.clone();
    drop(world);
    for account in &accounts {
        assert_eq!(account.usage(), Amounts::NONE, "{context}: who has nothing pays for something");
    }
    drop((accounts, context));
    assert_eq!(heap::live(), live, "{name}, {mode:?} {n}: bytes are lost");
    failed
}

impl Mode {
    fn explains(self, error: Error) -> bool {
        match self {
            Self::Allocation | Self::Allocations => error == Error::OutOfMemory,
            Self::Driver(..) => error == Error::Hardware(ERROR),
            Self::Pin(_) => error == Error::BadMemory,
        }
    }
}

impl World {
    fn scripts(&self) -> Vec<&Script> {
        self.units
            .iter()
            .map(|unit| unit.script())
            .chain(self.functions.iter().map(|function| function.script()))
            .collect()
    }

    /// Runs `does` while thing number `n` fails. Whether it was asked for.
    fn failing<T>(&self, mode: Mode, n: usize, does: impl Fn(&Self) -> T) -> (T, bool) {
        match mode {
            Mode::Allocation | Mode::Allocations => {
                let (result, failed) = heap::failing(n, mode == Mode::Allocation, || does(self));
                (result, failed > 0)
            }
            Mode::Driver(at, call) => {
                self.scripts()[at].fail(call, n as u64, ERROR, Effect::None);
                let result = does(self);
                (result, !self.scripts()[at].succeed())
            }
            Mode::Pin(at) => {
                let memory = &self.memories[at];
                if n > memory.extents().len() {
                    return (does(self), false);
                }
                memory.fail_after(n as u64);
                memory.script().fail(Call::Pin, 0, ERROR, Effect::None);
                let result = does(self);
                (result, !memory.script().succeed())
            }
        }
    }
}

fn compare(context: &str, when: &str, found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{context}, {when}");
    }
    assert_eq!(found.len(), expected.len(), "{context}, {when}");
}
