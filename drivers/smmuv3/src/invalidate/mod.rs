//! What changed -> what to invalidate, and in which order.
//!
//! Every transition of every structure has its arm in [`plan`]; nothing else in this driver chooses an invalidation.
//! A [`Batch`] keeps configuration before translations, of these stage 2 before what is made of it, and those before device
//! TLBs; the queue puts a CMD_SYNC between them and one behind all. Commands between two CMD_SYNCs may be executed in any
//! order, and what is dropped of translations while a stale configuration is still in use, or of device TLBs while stale
//! translations are, could come back.
//!
//! # The table
//!
//! Sections are those of IHI 0070 H.a. `sid` is the stream id, `ssid` the index of a context descriptor, DT all of the
//! device TLB of a stream, where it has one; "all of the tag" is TLBI_NH_ASID for stage 1, TLBI_S12_VMALL for stage 2 and for
//! a guest's stage 1 on top of it.
//!
//! | What changed | Commands, in order | Where it says so |
//! |---|---|---|
//! | stream table base | CFGI_ALL; TLBI_NSNH_ALL, with HYP TLBI_EL2_ALL | 3.11, 4.3.6 |
//! | level-1 stream descriptor set | CFGI_STE `sid`, Leaf = 0 | 5.1, 4.3.1 |
//! | a word of a stream table entry, valid or not | CFGI_STE `sid`, Leaf = 1 | 3.21.3.1, 4.3.1 |
//! | stream table entry leads no more where it led | CFGI_STE `sid`, CFGI_CD_ALL `sid` where stage 1 was in use; all of the tag; DT | 3.21.3.1, 4.3 |
//! | level-1 context descriptor set | CFGI_CD `sid` `ssid`, Leaf = 0 | 5.4, 4.3.3 |
//! | a word of a context descriptor, valid or not | CFGI_CD `sid` `ssid`, Leaf = 1 | 3.21.3.1, 4.3.3 |
//! | context descriptor leads no more where it led | CFGI_CD `sid` `ssid`; all of the tag; DT of that PASID | 3.21.3.1, 4.3.3 |
//! | leaves set | none: what is not valid is never cached as a translation | 3.21.1 |
//! | stage 1: leaves gone, less allowed, clean again | TLBI_NH_VA pages, Leaf = 1, or all of the tag; device TLB range | 4.4.2, 4.5.1 |
//! | stage 2: the same | TLBI_S2_IPA pages, Leaf = 1, or all of the tag; device TLB range | 4.4.3, 4.5.1 |
//! | either: tables gone too | the same, Leaf = 0 | 4.4.1 |
//! | stage 2 under guests' stage 1 | as stage 2, then TLBI_NH_ALL of its VMID, DT of the guests' streams | 4.4.3 |
//! | a guest's configuration | CFGI_CD or CFGI_CD_ALL of each of its streams | 4.3.7 |
//! | a guest's stage 1 | TLBI_NH_ALL, _ASID, _VA, _VAA with its VMID | 4.4.2 |
//! | a device TLB may be filled, or may not | as a word of the stream table entry; DT | 3.9.1, 5.2 |
//! | ASID or VMID to be used again | all of the tag | 3.17 |
//! | streams with stalled accesses lead no more where they led | STALL_TERM `sid`, behind all others | 4.7.2 |
//!
//! Pages are a range as it is where IDR3.RIL (see `ranges`), else a command an entry, of at most
//! [`ranges::MOST`] entries; beyond that all of the tag goes. TLBI_S2_IPA leaves alone what stage 1 had a part in, whatever
//! its addresses (section 4.4.3), hence TLBI_NH_ALL, behind a CMD_SYNC: a walk of stage 1 in between would keep again what
//! stage 2 had. An invalidation of a device TLB without PASID reaches the entries of all its PASIDs (PCIe ATS); one with
//! PASID, those of this one alone.

mod device;
mod ranges;

use crate::capabilities::Capabilities;
use crate::spec::command::{AtcPages, Command, Pages};
use core::fmt;
use iommu_core::hw::{Gather, Pasid, StreamId};
use iommu_driver::{batch, users};

/// How cached translations are tagged, which decides the command that removes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// By ASID, under VMID 0: stage 1.
    Asid(u16),
    /// By VMID: stage 2.
    Vmid(u16),
    /// By the guest's ASIDs under the VMID of what it stands on: a guest's stage 1.
    Guest {
        /// That VMID.
        vmid: u16,
        /// Tells this guest's stage 1 from others on the same stage 2; hardware knows no such number.
        number: u32,
    },
    /// Not at all: what passes through is not translated.
    Bypass,
}

/// The device TLB of a stream, as far as commands need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Atc;

/// A stream that leads somewhere, as commands name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// Who.
    pub stream: StreamId,
    /// Its PASID, which is also the index of its context descriptor; `None` for requests without one.
    pub pasid: Option<Pasid>,
    /// The device TLB of its function, where it has one that may hold translations.
    pub atc: Option<Atc>,
}

impl users::User for User {
    type Source = StreamId;
    type Tlb = Atc;
    type Tag = Tag;

    fn source(&self) -> StreamId {
        self.stream
    }

    fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    fn tlb(&self) -> Option<Atc> {
        self.atc
    }

    fn set_tlb(&mut self, tlb: Option<Atc>) {
        self.atc = tlb;
    }

    fn number(tag: Tag) -> u64 {
        match tag {
            Tag::Bypass => 0,
            Tag::Asid(asid) => 1 << 48 | u64::from(asid),
            Tag::Vmid(vmid) => 2 << 48 | u64::from(vmid),
            Tag::Guest { vmid, number } => 3 << 48 | u64::from(vmid) << 32 | u64::from(number),
        }
    }
}

/// A user's place among the users of a domain.
pub type Seat = users::Seat<User>;

/// The users of a domain, and of guests' stages 1 on top of it.
pub type Users = users::Users<User>;

/// Commands that are submitted together.
pub type Batch<'s> = batch::Batch<'s, Command>;

/// Takes the commands of a plan, in order.
pub trait Sink: batch::Sink<Command> {}

impl<S: batch::Sink<Command> + ?Sized> Sink for S {}

/// What a guest asks to be forgotten of its stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestRequest {
    /// A context descriptor, with `leaf` alone, else with what leads to it.
    Context {
        /// Its index.
        index: u32,
        /// Leaf.
        leaf: bool,
    },
    /// All its context descriptors.
    Contexts,
    /// All translations.
    All,
    /// Those of one of its ASIDs.
    Asid(u16),
    /// Some addresses, of one of its ASIDs or of all.
    Pages {
        /// The ASID; `None` for all.
        asid: Option<u16>,
        /// Which.
        pages: Pages,
    },
    /// Some addresses in the device TLBs of its streams.
    Device {
        /// Of requests with this PASID; `None` for all.
        pasid: Option<Pasid>,
        /// Of its global entries, too.
        global: bool,
        /// Which.
        pages: AtcPages,
    },
}

/// Takes changes one by one.
pub(crate) type Add<'a> = dyn FnMut(&Change<'_>) + 'a;

/// A change that hardware may have cached the old state of.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The stream table was given to a unit that may hold anything.
    StreamTable,
    /// A word of a stream table entry was stored. The entry leads where it led, or nowhere, or it led nowhere before.
    EntryStored {
        /// Whose.
        stream: StreamId,
        /// The level-1 descriptor that leads to it may be new.
        new_table: bool,
    },
    /// A stream table entry leads no more where it led.
    EntryCleared {
        /// Who led there.
        user: User,
        /// Tag of that.
        tag: Tag,
    },
    /// A word of a context descriptor was stored. The descriptor leads where it led, or nowhere, or it led nowhere before.
    ContextStored {
        /// Whose.
        stream: StreamId,
        /// Its index.
        index: u32,
        /// The level-1 descriptor that leads to it may be new.
        new_table: bool,
    },
    /// A context descriptor leads no more where it led.
    ContextCleared {
        /// Who led there.
        user: User,
        /// Tag of that.
        tag: Tag,
    },
    /// A stream's device TLB must forget everything: it was filled through what is no more.
    DeviceTlbCleared {
        /// Whose.
        stream: StreamId,
    },
    /// Leaves became valid.
    Mapped,
    /// Leaves, and perhaps tables, were taken out, or allow less than before, or count as not written through any more.
    Unmapped {
        /// The domain.
        tag: Tag,
        /// Address bits inside of its smallest page: 12, 14 or 16.
        page_bits: u8,
        /// The streams that lead there.
        users: &'a Users,
        /// What was taken out.
        gather: &'a Gather,
    },
    /// A guest says that it changed its stage 1.
    GuestChanged {
        /// Tag of that.
        tag: Tag,
        /// The streams that lead there, and others beside them.
        users: &'a Users,
        /// What it asks for.
        request: GuestRequest,
    },
    /// A stream leads nowhere any more, and accesses of it may be stalled.
    StalledLeft {
        /// Whose.
        stream: StreamId,
    },
    /// An ASID or VMID is about to be used for another domain: no entry has it any more.
    DomainRetired {
        /// The id's tag.
        tag: Tag,
    },
}

/// Adds the commands that `change` needs on a unit with these capabilities.
pub fn plan(caps: &Capabilities, change: &Change<'_>, sink: &mut dyn Sink) {
    match *change {
        Change::StreamTable => {
            sink.add(Command::cfgi_all());
            if caps.hypervisor_streams() {
                sink.add(Command::tlbi_el2_all());
            }
            sink.add(Command::tlbi_nsnh_all());
        }
        Change::EntryStored { stream, new_table } => sink.add(Command::cfgi_ste(stream.get(), !new_table)),
        Change::EntryCleared { user, tag } => {
            sink.add(Command::cfgi_ste(user.stream.get(), true));
            // By the letter CFGI_STE drops them too; a command of its own costs next to nothing where streams move, and
            // relies on no letter.
            if matches!(tag, Tag::Asid(_) | Tag::Guest { .. }) {
                sink.add(Command::cfgi_cd_all(user.stream.get()));
            }
            add_all_of(tag, sink);
            device::add(user, AtcPages::ALL, sink);
        }
        Change::ContextStored { stream, index, new_table } => {
            sink.add(Command::cfgi_cd(stream.get(), index, !new_table));
        }
        Change::ContextCleared { user, tag } => {
            sink.add(Command::cfgi_cd(user.stream.get(), user.pasid.map_or(0, Pasid::get), true));
            add_all_of(tag, sink);
            device::add(user, AtcPages::ALL, sink);
        }
        Change::DeviceTlbCleared { stream } => {
            device::add(User { stream, pasid: None, atc: Some(Atc) }, AtcPages::ALL, sink);
        }
        Change::Mapped => {}
        Change::Unmapped { tag, page_bits, users, gather } => {
            // Nothing is cached of what nobody leads to; what was, went when the last one left.
            if users.iter().next().is_none() {
                return;
            }
            ranges::add(caps, tag, page_bits, gather, sink);
            if let Tag::Vmid(vmid) = tag
                && users.beside(tag).next().is_some()
            {
                sink.add(Command::tlbi_nh_all(vmid));
            }
            device::add_unmapped(tag, users, gather, sink);
        }
        Change::GuestChanged { tag, users, request } => guest_changed(tag, users, request, sink),
        Change::StalledLeft { stream } => sink.add(Command::stall_term(stream.get())),
        Change::DomainRetired { tag } => add_all_of(tag, sink),
    }
}

/// Adds what drops everything under a tag.
fn add_all_of(tag: Tag, sink: &mut dyn Sink) {
    match tag {
        Tag::Asid(asid) => sink.add(Command::tlbi_nh_asid(0, asid)),
        Tag::Vmid(vmid) | Tag::Guest { vmid, .. } => sink.add(Command::tlbi_s12_vmall(vmid)),
        Tag::Bypass => {}
    }
}

fn guest_changed(tag: Tag, users: &Users, request: GuestRequest, sink: &mut dyn Sink) {
    let Tag::Guest { vmid, .. } = tag else { return };
    // Nothing is cached then, and where the domain beneath is gone the VMID may be another's.
    if users.iter().next().is_none() {
        return;
    }
    match request {
        GuestRequest::Context { index, leaf } => {
            users.of(tag).for_each(|user| sink.add(Command::cfgi_cd(user.stream.get(), index, leaf)));
        }
        GuestRequest::Contexts => users.of(tag).for_each(|user| sink.add(Command::cfgi_cd_all(user.stream.get()))),
        GuestRequest::All => sink.add(Command::tlbi_nh_all(vmid)),
        GuestRequest::Asid(asid) => sink.add(Command::tlbi_nh_asid(vmid, asid)),
        GuestRequest::Pages { asid: Some(asid), pages } => sink.add(Command::tlbi_nh_va(vmid, asid, pages)),
        GuestRequest::Pages { asid: None, pages } => sink.add(Command::tlbi_nh_vaa(vmid, pages)),
        GuestRequest::Device { pasid, global, pages } => {
            let of_guest = users.of(tag).filter(|user| user.atc.is_some());
            of_guest.for_each(|user| sink.add(Command::atc_inv(user.stream.get(), pasid, global, pages)));
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asid(asid) => write!(f, "ASID {asid}"),
            Self::Vmid(vmid) => write!(f, "VMID {vmid}"),
            Self::Guest { vmid, .. } => write!(f, "a guest's stage 1 under VMID {vmid}"),
            Self::Bypass => f.write_str("no tag"),
        }
    }
}

#[cfg(test)]
mod tests;
