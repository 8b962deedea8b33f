//! The one place that knows the architecture. Each has the same modules with the same functions:
//!
//! | module | what |
//! |---|---|
//! | `boot` | entry from the loader, up to `demo::kernel_main` |
//! | `paging` | the page tables: `init`, `map_device`, `map_read_only` |
//! | `cache` | `clean` and `invalidate` of ranges |
//! | `exceptions` | every exception prints what it was and ends the boot as a failure |
//! | `console` | `write_text`, `write_record`, `seize` |
//! | `time` | `now`, in nanoseconds |
//! | `exit` | `success`, `failure` |
//! | `iommu` | `Iommus`: the units, brought up, and which of them serves whom |
//! | `platform` | what the boot information and firmware tables say, as a `Platform` |

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
