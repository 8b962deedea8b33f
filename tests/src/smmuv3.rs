//! What the suites `smmuv3_*` share: the furniture of the VT-d suites, for SMMUv3.
//!
//! * [`mod@bench`]: a unit that the driver has brought up on a model, and what must hold at the end of every test.
//! * [`case`]: the kinds of unit that a test runs on.
//! * [`four_pages`]: a domain whose unmap takes several commands.
//! * [`pieces`]: single steps of a walk, for what caches hold of them.
//! * [`spy`]: registers that remember what was written, and call a test before and after each write.
//! * [`timeline`]: memory after every store, invalidations in between, and what caches could reach.

pub mod bench;
pub mod case;
pub mod four_pages;
pub mod pieces;
pub mod spy;
pub mod timeline;
