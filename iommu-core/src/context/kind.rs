//! What can be an object, and how each kind ends.

use crate::access::Access;
use crate::device::Device;
use crate::error::Error;
use crate::fault::FaultQueue;
use crate::hwpt::Hwpt;
use crate::ioas::{Ioas, RangeLock};
use crate::nested::NestedHwpt;
use crate::pages::Pages;
use crate::pasid::PasidSet;
use crate::quota::Ledger;
use crate::viommu::{EventQueue, HwQueue, Vdevice, Viommu};
use iommu_alloc::Shared;

/// What can be an object of a context.
pub trait Kind: Sealed {
    /// Which kind it is.
    const KIND: ObjectKind;
}

/// Keeps [`Kind`] to the types named here.
pub trait Sealed: Send + Sync + Sized {
    /// The context charges the object to its owner, as nobody else does.
    #[doc(hidden)]
    const COUNTED_HERE: bool;
    #[doc(hidden)]
    fn wrap(object: Shared<Self>) -> Object;
    #[doc(hidden)]
    fn of(object: &Object) -> Option<&Shared<Self>>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, counted_here: $counted:literal;)*) => {
        /// The kind of an object.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ObjectKind {
            $($(#[$doc])* $kind,)*
        }

        /// An object of any kind: one owner of it.
        #[doc(hidden)]
        #[derive(Clone)]
        pub enum Object {
            $($(#[$doc])* $kind(Shared<$kind>),)*
        }

        impl Object {
            pub(super) fn kind(&self) -> ObjectKind {
                match self {
                    $(Self::$kind(_) => ObjectKind::$kind,)*
                }
            }

            /// How many own it.
            pub(super) fn owners(&self) -> usize {
                match self {
                    $(Self::$kind(object) => Shared::owners(object),)*
                }
            }
        }

        $(
            impl Kind for $kind {
                const KIND: ObjectKind = ObjectKind::$kind;
            }

            impl Sealed for $kind {
                const COUNTED_HERE: bool = $counted;

                fn wrap(object: Shared<Self>) -> Object {
                    Object::$kind(object)
                }

                fn of(object: &Object) -> Option<&Shared<Self>> {
                    match object {
                        Object::$kind(object) => Some(object),
                        _ => None,
                    }
                }
            }
        )*
    };
}

kinds! {
    /// An address space.
    Ioas, counted_here: false;
    /// A domain.
    Hwpt, counted_here: false;
    /// A guest's first stage.
    NestedHwpt, counted_here: false;
    /// A device.
    Device, counted_here: false;
    /// An access.
    Access, counted_here: false;
    /// Memory.
    Pages, counted_here: true;
    /// A queue of faults.
    FaultQueue, counted_here: true;
    /// A range kept mapped.
    RangeLock, counted_here: true;
    /// The PASIDs of a partition.
    PasidSet, counted_here: true;
    /// A virtual IOMMU.
    Viommu, counted_here: false;
    /// A device of a virtual IOMMU.
    Vdevice, counted_here: false;
    /// Events of a virtual IOMMU.
    EventQueue, counted_here: false;
    /// A hardware queue of a virtual IOMMU.
    HwQueue, counted_here: false;
}

impl Object {
    /// Ends what it is, so that dropping it can not fail. Nobody else has it.
    ///
    /// # Errors
    ///
    /// What is in the way: it can be used as before, and this can be tried again.
    pub(super) fn end(&self) -> Result<(), Error> {
        match self {
            Self::Ioas(ioas) => {
                // Domains that hardware did not let go of when they left.
                ioas.reclaim()?;
                refuse(ioas.inner().is_used())?;
                ioas.unmap_all().map(drop)
            }
            Self::Hwpt(hwpt) => hwpt.leave(),
            Self::NestedHwpt(nested) => refuse(nested.is_used()),
            Self::Device(device) => device.leave(),
            Self::Access(access) => access.detach(),
            Self::Viommu(viommu) => refuse(viommu.is_used()),
            Self::PasidSet(set) => {
                set.close();
                Ok(())
            }
            Self::Pages(_)
            | Self::FaultQueue(_)
            | Self::RangeLock(_)
            | Self::Vdevice(_)
            | Self::EventQueue(_)
            | Self::HwQueue(_) => Ok(()),
        }
    }

    /// What it has cost, where it counts that.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Ioas(ioas) => Some(ioas.ledger()),
            Self::Device(device) => Some(device.ledger()),
            Self::Access(access) => Some(access.ledger()),
            Self::Pages(pages) => pages.ledger(),
            Self::FaultQueue(queue) => Some(queue.ledger()),
            Self::PasidSet(set) => Some(set.ledger()),
            Self::Viommu(viommu) => Some(viommu.ledger()),
            // The context, or what they are made from, pays for these.
            Self::Hwpt(_)
            | Self::NestedHwpt(_)
            | Self::RangeLock(_)
            | Self::Vdevice(_)
            | Self::EventQueue(_)
            | Self::HwQueue(_) => None,
        }
    }
}

fn refuse(used: bool) -> Result<(), Error> {
    if used { Err(Error::Busy) } else { Ok(()) }
}
