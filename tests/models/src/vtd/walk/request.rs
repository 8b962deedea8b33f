//! What a device asks for.

use iommu_core::addr::Iova;

/// What is done at the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// A read. A translation request with NW set, where the unit knows that flag.
    Read,
    /// A read without any byte enabled (section 3.14).
    ZeroLengthRead,
    /// A write.
    Write,
    /// Reads and writes at once. A translation request with NW clear.
    Atomic,
}

impl Operation {
    /// Whether it needs read permission.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }

    /// Whether it needs write permission.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Atomic)
    }
}

/// The AT field of a request (section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AddressType {
    /// 0: the unit translates.
    Untranslated,
    /// 1: a device asks for a translation to keep.
    Translation,
    /// 2: the address is one that a translation gave.
    Translated,
}

/// One request of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Source id.
    pub requester: u16,
    /// PASID prefix.
    pub pasid: Option<u32>,
    /// Where to; a host address in a translated request.
    pub iova: Iova,
    /// What is done there.
    pub operation: Operation,
    /// AT.
    pub address: AddressType,
    /// ER: the read is for execution. Only requests with PASID carry it.
    pub execute: bool,
    /// PR: with supervisor privilege. Only requests with PASID carry it.
    pub privileged: bool,
}

impl Request {
    /// A read or write of a user, untranslated.
    pub const fn new(requester: u16, pasid: Option<u32>, iova: Iova, write: bool) -> Self {
        Self {
            requester,
            pasid,
            iova,
            operation: if write { Operation::Write } else { Operation::Read },
            address: AddressType::Untranslated,
            execute: false,
            privileged: false,
        }
    }

    /// The same for another operation.
    pub const fn operation(self, operation: Operation) -> Self {
        Self { operation, ..self }
    }

    /// The same with another AT.
    pub const fn address(self, address: AddressType) -> Self {
        Self { address, ..self }
    }

    /// The same with ER.
    pub const fn execute(self) -> Self {
        Self { execute: true, ..self }
    }

    /// The same with PR.
    pub const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    /// The same elsewhere.
    pub const fn at(self, iova: Iova) -> Self {
        Self { iova, ..self }
    }

    /// ER, which counts only with a PASID.
    pub(in crate::vtd) const fn executes(&self) -> bool {
        self.execute && self.pasid.is_some()
    }

    /// Whether it goes where interrupts go, past all tables: untranslated and without PASID.
    pub(in crate::vtd) const fn is_interrupt(&self) -> bool {
        let untranslated = matches!(self.address, AddressType::Untranslated);
        untranslated && self.pasid.is_none() && super::is_interrupt(self.iova.get())
    }

    pub(in crate::vtd) const fn is_translation(&self) -> bool {
        matches!(self.address, AddressType::Translation)
    }
}
