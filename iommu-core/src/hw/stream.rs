//! Who makes a request: a requester with or without a PASID.

use core::fmt;

/// A PCI requester id within its segment: bus, device and function in 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequesterId(u16);

impl RequesterId {
    /// The id as it stands on the bus: bus in bits 15:8, device in 7:3, function in 2:0.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The id of `bus`, `device` (5 bits) and `function` (3 bits); `None` where one is too large.
    pub const fn from_parts(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self((bus as u16) << 8 | (device as u16) << 3 | function as u16))
        } else {
            None
        }
    }

    /// The id as it stands on the bus.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function in one byte.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// Device number.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// Function number.
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }
}

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

/// What a unit sees of a requester: on VT-d its requester id, on SMMUv3 the stream id that firmware maps it to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream id `raw`.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The id as the unit sees it.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<RequesterId> for StreamId {
    fn from(requester: RequesterId) -> Self {
        Self(requester.get().into())
    }
}

/// A process address space id (PCIe) or substream id (SMMUv3): 20 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pasid(u32);

impl Pasid {
    /// Width of the widest PASID, in bits.
    pub const BITS: u32 = 20;

    /// The PASID `raw`; `None` where it needs more than 20 bits.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw >> Self::BITS == 0 { Some(Self(raw)) } else { None }
    }

    /// The value.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// One source of DMA that can be given a target of its own: a function, or the part of one that a PASID tags.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stream {
    /// Who, as the unit sees it.
    pub id: StreamId,
    /// Which part of it; `None` for requests without PASID.
    pub pasid: Option<Pasid>,
}

impl Stream {
    /// The requests without PASID of `id`.
    pub fn function(id: impl Into<StreamId>) -> Self {
        Self { id: id.into(), pasid: None }
    }

    /// The requests of `id` tagged with `pasid`.
    pub fn with_pasid(id: impl Into<StreamId>, pasid: Pasid) -> Self {
        Self { id: id.into(), pasid: Some(pasid) }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pasid {
            None => write!(f, "stream {:#06x}", self.id.get()),
            Some(pasid) => write!(f, "stream {:#06x} pasid {:#x}", self.id.get(), pasid.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requester_id_is_bus_device_function() {
        let id = RequesterId::from_parts(0x12, 0x1f, 7).unwrap();
        assert_eq!(id.get(), 0x12ff);
        assert_eq!((id.bus(), id.device(), id.function()), (0x12, 0x1f, 7));
        assert_eq!(RequesterId::from_parts(0, 32, 0), None);
        assert_eq!(RequesterId::from_parts(0, 0, 8), None);
    }

    #[test]
    fn a_pasid_has_twenty_bits() {
        assert!(Pasid::new(0xf_ffff).is_some());
        assert_eq!(Pasid::new(0x10_0000), None);
    }
}
