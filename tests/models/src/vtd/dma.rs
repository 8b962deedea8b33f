//! Requests of devices.

use super::cache::Translation;
use super::command;
use super::fault::FaultRecord;
use super::unit::Unit;
use super::walk::{self, FaultCode, Refused};
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// Why a request was blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The reason; [`FaultCode::NONE`] for what is blocked without one.
    pub code: FaultCode,
    /// First byte of the page where it was.
    pub page: Iova,
    /// Whether it is a fault that software gets to see, room in the fault records provided: no FPD on the way.
    pub reported: bool,
}

impl Unit {
    /// Translates the `len` bytes from `iova` through the caches, records the first fault.
    pub(super) fn dma(
        &mut self,
        requester: u16,
        pasid: Option<u32>,
        iova: Iova,
        len: u64,
        write: bool,
    ) -> Result<Vec<PhysExtent>, Blocked> {
        let mut extents: Vec<PhysExtent> = Vec::new();
        let Some(less) = len.checked_sub(1) else { return Ok(extents) };
        let last = iova.get().checked_add(less).expect("a request does not wrap");
        let mut at = iova.get();
        loop {
            let end = last.min(at | 0xfff);
            let phys = self.page(requester, pasid, at, write)?;
            match extents.last_mut() {
                Some(before) if before.start.get() + before.len == phys => before.len += end - at + 1,
                _ => extents.push(PhysExtent::new(PhysAddr::new(phys), end - at + 1)),
            }
            if end == last {
                break;
            }
            at = end + 1;
        }
        Ok(extents)
    }

    /// Where the byte at `iova` lies.
    fn page(&mut self, requester: u16, pasid: Option<u32>, iova: u64, write: bool) -> Result<u64, Blocked> {
        // Without PASID these are interrupts, whether translation is on or off.
        let found = if pasid.is_none() && walk::is_interrupt(iova) {
            Err(Refused { code: FaultCode::NONE, silent: true })
        } else if self.status_bits & command::TRANSLATION == 0 {
            Ok(iova)
        } else {
            self.lookup(requester, pasid, iova, write)
        };
        found.map_err(|refused| {
            let reported = refused.code != FaultCode::NONE && !(refused.silent && refused.code.is_qualified());
            let page = Iova::new(iova & !0xfff);
            if reported {
                self.record(&FaultRecord { requester, pasid, page, write, code: refused.code });
            }
            Blocked { code: refused.code, page, reported }
        })
    }

    fn lookup(&mut self, requester: u16, pasid: Option<u32>, iova: u64, write: bool) -> Result<u64, Refused> {
        let tag = (requester, pasid);
        let (cached, size) = match self.caches.find(tag, iova) {
            Some(hit) => hit,
            None => {
                self.fill(requester, pasid, iova, write)?;
                self.caches.find(tag, iova).expect("it was filled")
            }
        };
        let (phys, read_allowed, write_allowed) = cached.found?;
        if if write { write_allowed } else { read_allowed } {
            return Ok(phys + (iova & (size - 1)));
        }
        let code = if cached.kind == 2 { FaultCode::SECOND_PERMISSION } else { FaultCode::FIRST_WRITE };
        Err(Refused { code, silent: cached.silent })
    }

    /// Walks memory, through the context and PASID cache, and keeps what may be kept.
    fn fill(&mut self, requester: u16, pasid: Option<u32>, iova: u64, write: bool) -> Result<(), Refused> {
        let memory = self.memory.clone();
        let read64 = |phys| memory.device_read64(phys);
        let (config, caching) = (self.config, self.config.caching());
        let context = match self.caches.contexts.get(&requester) {
            Some(context) => *context,
            None => {
                let context = walk::context(&read64, self.root, &config, requester, pasid.is_some());
                if context.is_ok()
                    || caching && context.is_err_and(|refused| refused.code >= FaultCode::ROOT_NOT_PRESENT)
                {
                    self.caches.contexts.insert(requester, context);
                }
                context
            }
        }?;
        let tag = (requester, pasid);
        let entry = match self.caches.pasids.get(&tag) {
            Some(entry) => *entry,
            None => {
                let entry = walk::pasid_entry(&read64, &config, &context, pasid);
                // What the context entry alone refuses is none of the PASID cache's.
                let refused = entry.is_err_and(|refused| refused.code >= FaultCode::DIRECTORY_NOT_PRESENT);
                if entry.is_ok() || caching && refused {
                    self.caches.pasids.insert(tag, entry);
                }
                entry
            }
        }?;
        let found = walk::page(&read64, &config, &entry, iova, write);
        // A leaf that forbids this request is present all the same, and may be kept.
        let kept = found.or_else(|refused| walk::page(&read64, &config, &entry, iova, !write).map_err(|_| refused));
        let translation = Translation {
            domain: entry.domain(),
            pasid: entry.pasid,
            kind: entry.kind(),
            silent: entry.silent,
            found: kept.map(|leaf| (leaf.phys, leaf.read, leaf.write)),
        };
        // Section 6.1: caching mode never concerns the first stage; an input beyond the width met no entry.
        let entries = |refused: Refused| refused.code != FaultCode::BEYOND_WIDTH && entry.kind() == 2;
        if kept.is_ok() || caching && kept.is_err_and(entries) {
            self.caches.insert(tag, iova, kept.map_or(0x1000, |leaf| leaf.size), translation);
        }
        found.map(drop)
    }
}
