//! The translations that functions with ATS hold themselves (section 3.9), until a CMD_ATC_INV covers them.

use super::command::Command;
use super::page_request::PageAnswer;
use super::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, PhysAddr};

/// A translation that a function holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// PASID that it was asked for with.
    pub pasid: Option<u32>,
    /// First byte of its page.
    pub iova: Iova,
    /// Length of its page in bytes.
    pub len: u64,
    /// Where that lies; with ATS of stage 1 alone, what stage 2 is to translate.
    pub phys: PhysAddr,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
}

impl Held {
    const fn last(&self) -> u64 {
        self.iova.get() + (self.len - 1)
    }

    pub(super) fn covers(&self, pasid: Option<u32>, iova: u64) -> bool {
        self.pasid == pasid && (self.iova.get()..=self.last()).contains(&iova)
    }
}

/// What a function holds, and what it is.
#[derive(Default)]
pub(super) struct DeviceTlb {
    pub(super) held: Vec<Held>,
    /// Invalidations that it takes at once; `None` for 32, which is as many as there are.
    pub(super) depth: Option<u8>,
    /// Looks before it has answered as many as it takes at once.
    pub(super) late: u32,
    /// It asks again at once for what it lost.
    pub(super) eager: bool,
    /// It answers that it does not know the request, and keeps what it holds.
    pub(super) refusing: bool,
    /// Answers to its page requests.
    pub(super) answers: Vec<PageAnswer>,
}

/// Every function's, by stream id.
#[derive(Default)]
pub(super) struct DeviceTlbs(BTreeMap<u32, DeviceTlb>);

/// First and last address of an invalidation: 4 KiB times 2^Size, aligned to its size.
const fn range(address: u64) -> (u64, u64) {
    let bits = 12 + (address & 0x3f) as u32;
    let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    (address & !0xfff & !mask, address | mask | 0xfff)
}

impl DeviceTlbs {
    pub(super) fn of(&mut self, sid: u32) -> &mut DeviceTlb {
        self.0.entry(sid).or_default()
    }

    /// Looks that pass before all that is asked of device TLBs is answered.
    pub(super) fn looks<'a>(&self, commands: impl Iterator<Item = &'a Command> + Clone) -> u32 {
        let of = |(sid, function): (&u32, &DeviceTlb)| {
            let its = commands
                .clone()
                .filter(|one| matches!(one, Command::AtcInvalidate { sid: to, .. } if to == sid))
                .count();
            let rounds = its.div_ceil(usize::from(function.depth.unwrap_or(32)).max(1));
            function.late.saturating_mul(rounds as u32)
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }

    /// Drops what `command` covers, and no more; what an eager function lost.
    fn invalidate(&mut self, command: &Command) -> Vec<Held> {
        let mut lost = Vec::new();
        let Command::AtcInvalidate { sid, ssid, global, address } = *command else { return lost };
        let (first, last) = range(address);
        let Some(function) = self.0.get_mut(&sid) else { return lost };
        if function.refusing {
            return lost;
        }
        function.held.retain(|held| {
            let its = match ssid {
                None => held.pasid.is_none(),
                Some(_) if global => held.pasid.is_some(),
                Some(_) => held.pasid == ssid,
            };
            let covered = its && held.iova.get() <= last && first <= held.last();
            if covered {
                lost.push(*held);
            }
            !covered
        });
        if !function.eager {
            lost.clear();
        }
        lost
    }
}

impl Unit {
    /// Drops what `command` covers in device TLBs. Those who cannot wait ask again at once.
    pub(super) fn invalidate_device_tlbs(&mut self, command: &Command) {
        let lost = self.device_tlbs.invalidate(command);
        if let Command::AtcInvalidate { sid, .. } = *command {
            for held in lost {
                let _ = self.ask_for(sid, held.pasid, held.iova.get(), held.write);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn spans_are_aligned_to_their_size() {
        assert_eq!(range(0x5000), (0x5000, 0x5fff));
        assert_eq!(range(0x5000 | 1), (0x4000, 0x5fff));
        assert_eq!(range(0x7000 | 3), (0, 0x7fff));
        assert_eq!(range(0xffff_ffff_ffff_f000 | 51), (1 << 63, u64::MAX));
        assert_eq!(range(52), (0, u64::MAX));
    }
}
