//! Operations, and how bytes become some: random bytes in the property test, those of the fuzzer in its target.

/// Which of the units' ways to fail is switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// None: everything works, and what was not confirmed can be made up for.
    None,
    /// Flushes are not confirmed.
    Unconfirmed,
    /// Domains have no memory for tables after so many maps more.
    NoTables(u8),
    /// Maps are not confirmed after so many more; whether they are done all the same.
    Uncertain(u8, bool),
}

/// Where to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Exactly at the address that [`super::Layout`] has under this number.
    At(u16),
    /// Wherever there is room.
    Anywhere,
}

/// One operation. Numbers stand for objects and addresses modulo how many there are, so that every part of a sequence of
/// operations is one, too: what fails can be made smaller by leaving some out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Map {
        space: u8,
        object: u8,
        offset: u16,
        len: u16,
        at: Place,
        prot: u8,
    },
    MapPlain {
        space: u8,
        plain: u8,
        at: Place,
        prot: u8,
    },
    Unmap {
        space: u8,
        first: u16,
        len: u16,
    },
    /// The range of some area: exact, as most callers do.
    UnmapExact {
        space: u8,
        near: u16,
    },
    UnmapAll {
        space: u8,
    },
    Copy {
        from: u8,
        near: u16,
        skip: u16,
        len: u16,
        to: u8,
        at: Place,
        prot: u8,
    },
    Split {
        space: u8,
        at: u16,
    },
    LargePages {
        space: u8,
        on: bool,
    },
    Allow {
        space: u8,
        ranges: [(u16, u16); 2],
        count: u8,
    },
    Reserve {
        space: u8,
        first: u16,
        len: u16,
        owner: u8,
    },
    Release {
        space: u8,
        owner: u8,
    },
    Reclaim {
        space: u8,
    },
    NewDomain {
        space: u8,
        unit: u8,
        slot: u8,
    },
    DropDomain {
        slot: u8,
        gently: bool,
    },
    Attach {
        device: u8,
        slot: u8,
        replace: bool,
    },
    AttachAuto {
        device: u8,
        space: u8,
        replace: bool,
    },
    Detach {
        device: u8,
    },
    AttachPasid {
        device: u8,
        pasid: u8,
        slot: u8,
        replace: bool,
    },
    DetachPasid {
        device: u8,
        pasid: u8,
    },
    AccessAttach {
        access: u8,
        space: u8,
        replace: bool,
    },
    AccessDetach {
        access: u8,
    },
    Pin {
        access: u8,
        near: u16,
        skip: u16,
        len: u16,
        write: bool,
    },
    Unpin {
        pin: u8,
    },
    Stubborn {
        access: u8,
        on: bool,
    },
    Read {
        access: u8,
        near: u16,
        skip: u16,
        len: u16,
    },
    Write {
        access: u8,
        near: u16,
        skip: u16,
        len: u16,
        value: u8,
    },
    Lock {
        space: u8,
        near: u16,
        skip: u16,
        len: u16,
        contiguous: bool,
    },
    Unlock {
        lock: u8,
    },
    Register {
        object: u8,
    },
    Unregister {
        at: u8,
    },
    Revoke {
        object: u8,
    },
    ChangeOwner {
        space: u8,
        account: u8,
    },
    ChangePagesOwner {
        object: u8,
        account: u8,
    },
    Limit {
        account: u8,
        pages: u8,
    },
    Hardware {
        unit: u8,
        fault: Fault,
    },
    PinFails {
        object: u8,
        on: bool,
    },
}

/// Bytes to make operations of.
pub trait Bytes {
    /// The next one; `None` where they are at an end.
    fn next(&mut self) -> Option<u8>;
}

impl<I: Iterator<Item = u8>> Bytes for I {
    fn next(&mut self) -> Option<u8> {
        Iterator::next(self)
    }
}

/// Takes values off bytes; zeros where they are at an end.
struct Reader<'a>(&'a mut dyn Bytes);

impl Reader<'_> {
    fn u8(&mut self) -> u8 {
        self.0.next().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// Mostly small.
    fn len(&mut self) -> u16 {
        match self.u8() {
            small @ 0..0xe0 => u16::from(small) % 12,
            _ => self.u16(),
        }
    }

    fn odd(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Once in `n`.
    fn rarely(&mut self, n: u8) -> bool {
        self.u8() % n == n - 1
    }

    fn place(&mut self) -> Place {
        if self.u8().is_multiple_of(3) { Place::Anywhere } else { Place::At(self.u16()) }
    }
}

impl Op {
    /// The next operation; `None` where the bytes are at an end.
    pub fn take(bytes: &mut dyn Bytes) -> Option<Self> {
        let kind = bytes.next()?;
        let from = &mut Reader(bytes);
        Some(
            Self::common(kind, from).or_else(|| Self::of_devices(kind, from)).unwrap_or_else(|| Self::rare(kind, from)),
        )
    }

    /// Maps, unmaps and the like: five of eight.
    fn common(kind: u8, from: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            0..42 => Self::Map {
                space: from.u8(),
                object: from.u8(),
                offset: from.len(),
                len: from.len(),
                at: from.place(),
                prot: from.u8(),
            },
            42..56 => Self::MapPlain { space: from.u8(), plain: from.u8(), at: from.place(), prot: from.u8() },
            56..74 => Self::UnmapExact { space: from.u8(), near: from.u16() },
            74..88 => Self::Unmap { space: from.u8(), first: from.u16(), len: from.len() },
            88..89 => Self::UnmapAll { space: from.u8() },
            89..109 => Self::Copy {
                from: from.u8(),
                near: from.u16(),
                skip: from.len(),
                len: from.len(),
                to: from.u8(),
                at: from.place(),
                prot: from.u8(),
            },
            109..119 => Self::Split { space: from.u8(), at: from.u16() },
            119..121 => Self::LargePages { space: from.u8(), on: from.odd() },
            121..127 => Self::Allow {
                space: from.u8(),
                ranges: [(from.u16(), from.len()), (from.u16(), from.len())],
                count: from.u8() % 3,
            },
            127..131 => Self::Reserve { space: from.u8(), first: from.u16(), len: from.len(), owner: from.u8() },
            131..138 => Self::Release { space: from.u8(), owner: from.u8() },
            _ => return None,
        })
    }

    /// Domains, devices and accesses.
    fn of_devices(kind: u8, from: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            138..146 => Self::NewDomain { space: from.u8(), unit: from.u8(), slot: from.u8() },
            146..150 => Self::DropDomain { slot: from.u8(), gently: from.odd() },
            150..161 => Self::Attach { device: from.u8(), slot: from.u8(), replace: from.odd() },
            161..168 => Self::AttachAuto { device: from.u8(), space: from.u8(), replace: from.odd() },
            168..172 => Self::Detach { device: from.u8() },
            172..179 => Self::AttachPasid { device: from.u8(), pasid: from.u8(), slot: from.u8(), replace: from.odd() },
            179..182 => Self::DetachPasid { device: from.u8(), pasid: from.u8() },
            182..188 => Self::AccessAttach { access: from.u8(), space: from.u8(), replace: from.rarely(3) },
            188..190 => Self::AccessDetach { access: from.u8() },
            190..205 => {
                Self::Pin { access: from.u8(), near: from.u16(), skip: from.len(), len: from.len(), write: from.odd() }
            }
            205..209 => Self::Unpin { pin: from.u8() },
            209..212 => Self::Stubborn { access: from.u8(), on: from.rarely(3) },
            212..219 => Self::Read { access: from.u8(), near: from.u16(), skip: from.u16(), len: from.u16() },
            219..227 => {
                Self::Write { access: from.u8(), near: from.u16(), skip: from.u16(), len: from.u16(), value: from.u8() }
            }
            _ => return None,
        })
    }

    fn rare(kind: u8, from: &mut Reader<'_>) -> Self {
        match kind {
            227..231 => Self::Lock {
                space: from.u8(),
                near: from.u16(),
                skip: from.len(),
                len: from.len(),
                contiguous: from.odd(),
            },
            231..235 => Self::Unlock { lock: from.u8() },
            235..237 => Self::Register { object: from.u8() },
            237..240 => Self::Unregister { at: from.u8() },
            240..242 => Self::Revoke { object: from.u8() },
            242..244 => Self::ChangeOwner { space: from.u8(), account: from.u8() },
            244..246 => Self::ChangePagesOwner { object: from.u8(), account: from.u8() },
            246..248 => Self::Limit { account: from.u8(), pages: from.u8() },
            248..250 => Self::Reclaim { space: from.u8() },
            250..252 => Self::PinFails { object: from.u8(), on: from.rarely(3) },
            _ => Self::Hardware {
                unit: from.u8(),
                fault: match from.u8() % 6 {
                    0 => Fault::Unconfirmed,
                    1 => Fault::NoTables(from.u8() % 4),
                    2 => Fault::Uncertain(from.u8() % 4, from.odd()),
                    _ => Fault::None,
                },
            },
        }
    }
}
