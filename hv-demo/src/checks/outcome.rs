//! What a transfer came to, in words that the witness compares with the trace.

use super::device::EngineError;
use crate::iommu::Reported;
use core::fmt;
use iommu_core::hw::{HwError, StreamId};

/// What a transfer came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The bytes are where they belong, and no fault was reported.
    Moved,
    /// No byte moved, and the faults that are due were reported, no more and no fewer: of this stream, the first of
    /// them with these data.
    Refused(StreamId, Reported),
    /// As many faults as are due were reported, but a later one than the first is not like this.
    Strayed(StreamId, Reported),
    /// No byte moved, and no fault was reported.
    Dropped,
    /// No fault was reported, but the bytes are not what they should be.
    WrongBytes,
    /// Faults were reported, the first with this code, and yet bytes moved.
    Leaked(u32),
    /// This many faults were reported, where another number was due.
    Faults(usize),
    /// There were more faults than the unit could record.
    Lost,
    /// The device was told otherwise than the unit reported and memory shows: whether it was let through.
    Told(bool),
    /// As many faults as are due were reported, but one of them says this of where.
    Said(&'static str),
    /// The device itself did not do its part.
    Device(EngineError),
    /// The unit did not do its part.
    Unit(HwError),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Moved => f.write_str("moved"),
            Self::Refused(stream, reported) => write!(f, "blocked: {}", Told(stream, reported)),
            Self::Strayed(stream, reported) => write!(f, "one of the faults is {}", Told(stream, reported)),
            Self::Dropped => f.write_str("dropped without a fault"),
            Self::WrongBytes => f.write_str("wrong bytes"),
            Self::Leaked(code) => write!(f, "bytes moved despite fault {code:#x}"),
            Self::Faults(count) => write!(f, "{count} faults"),
            Self::Lost => f.write_str("faults were lost"),
            Self::Told(through) => {
                write!(f, "the device was told that it {} let through", if through { "was" } else { "was not" })
            }
            Self::Said(text) => write!(f, "a fault that says: {text}"),
            Self::Device(error) => error.fmt(f),
            Self::Unit(error) => error.fmt(f),
        }
    }
}

/// A fault in words.
struct Told(StreamId, Reported);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(stream, Reported { code, iova, access, pasid }) = self;
        write!(f, "{access} of {:#x}", stream.get())?;
        pasid.map_or(Ok(()), |pasid| write!(f, " PASID {:#x}", pasid.get()))?;
        write!(f, " at {iova}, reason {code:#x}")
    }
}
