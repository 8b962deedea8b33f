//! What the suites in `tests/` share. Each suite drives the real driver against a model of the hardware, and decodes
//! tables with a walker that knows no driver.
//!
//! * [`mod@bench`]: a unit that the driver has brought up on a model, and what must hold at the end of every test.
//! * [`case`]: the kinds of unit that a test runs on.
//! * [`spy`]: registers that remember what was written, and call a test before and after each write.
//! * [`world`]: a unit of either architecture, its driver, domains and streams under random operations, beside what ought
//!   to be.
//! * [`timeline`]: memory after every store, invalidations in between, and what caches could reach.
//! * [`figures`]: how much was tried, printed in any case.
//! * [`four_pages`]: a domain whose unmap takes a batch of four descriptors.
//! * [`mock`]: stand-ins for everything around `iommu-core`, for the suites that drive it without a driver.
//! * [`oracle`]: what address spaces ought to be, beside the real ones, operation by operation.
//! * [`heap`]: a heap that runs out when a test says so.
//! * [`mod@holes`]: what drivers of every architecture may get wrong, over either of them.
//! * [`hostile`]: what the next two have in common.
//! * [`hostile_dmar`]: what must hold of any bytes as a DMAR table, and tables to try.
//! * [`hostile_iort`]: the same for the IORT.
//! * [`house`]: either driver on a unit of its architecture, for the suite `both`.
//! * [`hooked`]: memory that calls a test back in the middle of an operation.
//! * [`pieces`]: single steps of a walk, for what caches hold of them.
//! * [`random`]: numbers for random tests.
//! * [`script`]: runs `qemu-run.sh`.
//! * [`smmuv3`]: the same furniture for SMMUv3: bench, case, spy, timeline, pieces.
//! * [`spaces`]: address spaces over real drivers.
//! * [`tables`]: firmware tables, byte by byte.
//! * [`watched`]: a device as the core has it, and a function that notes when it was a bus master.

pub mod bench;
pub mod case;
pub mod figures;
pub mod four_pages;
pub mod heap;
pub mod holes;
pub mod hooked;
pub mod hostile;
pub mod hostile_dmar;
pub mod hostile_iort;
pub mod house;
pub mod mock;
pub mod oracle;
pub mod pieces;
pub mod random;
pub mod script;
pub mod smmuv3;
pub mod spaces;
pub mod spy;
pub mod tables;
pub mod timeline;
pub mod watched;
pub mod world;
