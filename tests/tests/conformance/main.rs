//! The names of Linux's iommufd selftest, tested here: what each checks of the semantics, against stand-ins of the same
//! geometry that see misuse. Expectations are computed in the tests.
//!
//! A test stands at `GROUP::NAME`, or at `GROUP::NAME::VARIANT`. `tests/README.md` has the names that are not tested
//! here and why; the test `summary` counts both and accepts no third kind. What is no
//! name of the reference stands beside, in `device_tlb`.

mod change_process;
mod common;
mod context;
mod defects;
mod device_pasid;
mod device_tlb;
mod dirty;
mod fail_nth;
#[path = "../fail_nth/heap.rs"]
#[allow(dead_code)] // The suite that it is of needs more of it.
mod heap;
mod ioas;
mod mock_domain;
mod summary;
mod vfio_compat;
mod viommu;
