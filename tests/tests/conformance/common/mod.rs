//! What the groups share: a machine with an address space and its domains, and what must be so in it.

mod expect;
mod lead;
mod rig;

pub use expect::{Expected, expect_areas, expect_tables, expected};
pub use lead::{Lead, dynamic};
pub use rig::{Case, PIN_LIMIT, RECORDS_LIMIT, Rig, alignment};

use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::group::OwnerId;
use iommu_core::ioas::{Ioas, Placement};
use iommu_core::pages::Pages;
use iommu_core::quota::Account;
use iommu_tests::mock::*;
use std::sync::Arc;

/// Error numbers, by the reference's names.
pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const ENOMEM: i32 = 12;
pub const EFAULT: i32 = 14;
pub const EBUSY: i32 = 16;
pub const EEXIST: i32 = 17;
pub const ENODEV: i32 = 19;
pub const EINVAL: i32 = 22;
pub const ENOSPC: i32 = 28;
pub const EDEADLOCK: i32 = 35;
pub const EOVERFLOW: i32 = 75;
pub const EOPNOTSUPP: i32 = 95;
pub const EADDRINUSE: i32 = 98;
pub const ETIMEDOUT: i32 = 110;

/// What partition memory is pinned by, in the reference's terms.
pub const PAGE: u64 = 4096;
pub const OWNER: OwnerId = OwnerId(7);

/// Makes a test of each name over each case.
macro_rules! variants {
    (@one $cases:tt $name:ident) => {
        mod $name {
            use super::*;
            variants!(@cases $cases $name);
        }
    };
    (@cases [$($variant:ident = $case:expr),+ $(,)?] $name:ident) => {
        $(
            #[test]
            fn $variant() {
                super::$name($case)
            }
        )+
    };
    ($cases:tt: $($name:ident),+ $(,)?) => {
        $( variants!(@one $cases $name); )+
    };
}
pub(crate) use variants;

/// The error number of what must be an error.
#[track_caller]
pub fn errno<T>(result: Result<T, Error>) -> i32 {
    match result {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error.errno(),
    }
}

pub fn iova(raw: u64) -> Iova {
    Iova::new(raw)
}

pub fn at(raw: u64) -> Placement {
    Placement::Fixed(iova(raw))
}

/// Memory and the pages made of it.
pub struct Source {
    pub memory: Arc<MockMemory>,
    pub pages: Pages,
}

impl Source {
    pub fn new(world: &World, config: MemoryConfig, account: Option<&Account>) -> Self {
        Self::of(MockMemory::new(world, config), account)
    }

    pub fn of(memory: Arc<MockMemory>, account: Option<&Account>) -> Self {
        let pages = Pages::new(memory.clone(), account).unwrap();
        Self { memory, pages }
    }
}
