//! A guest's own first stage on top of a domain.

use super::HwError;
use core::any::Any;

/// What a guest asks for, in the layout of the driver: opaque to everything above it, and checked by it word for word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedConfig<'a> {
    /// Which layout the words have: a number that the driver documents.
    pub kind: u32,
    /// The guest's values.
    pub words: &'a [u64],
}

/// One request of a guest to forget cached translations of its first stage, in the layout of the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// Which layout the words have: a number that the driver documents.
    pub kind: u32,
    /// The request.
    pub words: [u64; 2],
}

/// A guest's first stage on top of a domain, made by [`super::Unit::create_nested`].
///
/// It is dropped once no stream leads through it, which hardware has confirmed, and before its parent is.
pub trait Nested: Any + Send + Sync {
    /// Carries out one request, which can concern nothing but this first stage, and waits for hardware to confirm.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] for a kind that the driver does not know; [`HwError::Hardware`] names what is wrong with
    /// the request; [`HwError::TimedOut`], [`HwError::Queue`].
    fn invalidate(&self, request: &Invalidation) -> Result<(), HwError>;
}
