//! What every driver owes its caller, over each of them: one function a promise, generic over the driver, on every kind of
//! unit that the driver knows. What is true of one architecture alone is tested beside this suite.

mod busy;
mod device_tlb;
mod dirty;
mod heap;
mod identity;
mod ids;
mod ioas;
mod lifetimes;
mod nested;
mod parallel;
mod pasids;
mod random;
mod refusals;
mod split;
mod unconfirmed;
mod users;

use iommu_tests::heap::Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
