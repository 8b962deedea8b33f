//! One transfer of a device, with everything around it looked at: which faults came, what the memory holds, and between
//! which markers of the IOMMU's own trace it happened.

use super::device::Device;
use super::outcome::Outcome;
use crate::edu::BUFFER_SIZE;
use crate::iommu::{DemoUnit, Refusal, Reported};
use crate::partition::{Buffer, Partition};
use crate::report::{Entry, Report};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::device::AttachTo;
use iommu_core::hw::{AccessKind, Fault, Stage, StreamId};
use iommu_core::hwpt::Hwpt;

/// A bench for checks on one unit.
pub struct Lab<'a> {
    /// The unit.
    pub unit: &'a dyn DemoUnit,
    /// The stage that partitions are translated by.
    pub stage: Stage,
    /// Where results go.
    pub report: &'a mut Report,
}

/// One transfer.
#[derive(Clone, Copy)]
pub struct Transfer {
    /// As the device does it to memory: a read brings memory into the device's buffer.
    pub access: AccessKind,
    /// Where in I/O virtual memory.
    pub iova: Iova,
    /// How many bytes, from the start of the device's buffer.
    pub len: usize,
}

impl Transfer {
    /// A read of `len` bytes.
    pub fn read(iova: Iova, len: usize) -> Self {
        Self { access: AccessKind::Read, iova, len }
    }

    /// A write of `len` bytes.
    pub fn write(iova: Iova, len: usize) -> Self {
        Self { access: AccessKind::Write, iova, len }
    }
}

/// The faults reported around one transfer.
#[derive(Default)]
struct Seen {
    faults: Vec<Fault>,
    lost: bool,
    /// Whether the transfer was let through, where the device was told.
    told: Option<bool>,
}

impl Seen {
    /// What the faults amount to, where `due` are due of `stream`; `intact` says whether nothing has moved.
    fn judge(&self, stream: StreamId, due: &[Reported], intact: bool) -> Outcome {
        if self.lost {
            return Outcome::Lost;
        }
        let Some(first) = self.faults.first() else {
            return if intact { Outcome::Dropped } else { Outcome::Moved };
        };
        if !intact {
            return Outcome::Leaked(first.code);
        }
        if self.faults.len() != due.len() {
            return Outcome::Faults(self.faults.len());
        }
        let unlike = |(fault, due): &(&Fault, &Reported)| fault.stream.id != stream || Reported::of(fault) != **due;
        match self.faults.iter().zip(due).skip(1).find(unlike) {
            Some((fault, _)) => Outcome::Strayed(fault.stream.id, Reported::of(fault)),
            None => Outcome::Refused(first.stream.id, Reported::of(first)),
        }
    }
}

impl Lab<'_> {
    /// Attaches `device` to `partition` under every name it has.
    pub fn attach(&mut self, check: &str, device: &Device, partition: &Partition) {
        self.change("attach", check, device, || device.give(partition));
    }

    /// Moves `device` from the partition that it is attached to, to another; a part, with its PASID.
    pub fn move_to(&mut self, check: &str, device: &Device, from: &Partition, to: &Partition) {
        self.change("attach", check, device, || {
            device.take()?;
            if let Some(pasid) = device.stream.pasid {
                from.give_back(pasid)?;
                to.take_pasid(pasid)?;
            }
            device.give(to)
        });
    }

    /// Leads the whole function `device` elsewhere, without a moment between.
    pub fn replace(&mut self, check: &str, device: &Device, to: &Hwpt) {
        self.change("attach", check, device, || device.assigned.replace(AttachTo::Hwpt(to)).map(|_| ()));
    }

    /// Blocks `device` under every name it has.
    pub fn detach(&mut self, check: &str, device: &Device) {
        self.change("detach", check, device, || device.take());
        // What the checks see refused from now on, the IOMMU refuses.
        // SAFETY: the function is attached to nothing, and translation is on.
        unsafe { device.space.let_loose() };
    }

    /// Takes a whole partition down, to which `device` and `others` are attached.
    pub fn end(&mut self, check: &str, device: &Device, others: &[&Device], partition: Partition) {
        self.change("detach", check, device, || {
            device.take()?;
            others.iter().try_for_each(|other| other.take())?;
            partition.end()
        });
        // SAFETY: as in `detach`.
        unsafe { device.space.let_loose() };
    }

    /// Changes what the streams of `device` reach, between two markers.
    pub fn change<E: fmt::Display>(
        &mut self,
        kind: &'static str,
        check: &str,
        device: &Device,
        does: impl FnOnce() -> Result<(), E>,
    ) {
        let begin = self.unit.sync();
        let done = does();
        let end = self.unit.sync();
        let markers = begin.and_then(|begin| Ok((begin, end?)));
        let entry = Entry { stream: Some(device.stream), markers: markers.ok(), ..Entry::new(kind, check) };
        match done {
            Ok(()) => self.report.check(&entry, "done", "done", None),
            Err(error) => self.report.trouble(check, &error),
        }
    }

    /// Prints the way of the device's requests to `iova`, where the driver can, which is to lead to `due`.
    pub fn explain(&mut self, check: &str, device: &Device, iova: Iova, due: Option<PhysAddr>) {
        let mut text = String::new();
        let Some(end) = self.unit.print_walk(device.stream, iova, &mut text) else { return };
        text.lines().for_each(|line| println!("          {line}"));
        let said = |end: Option<PhysAddr>| end.map_or(String::from("nowhere"), |phys| alloc::format!("{phys}"));
        self.report.state(check, said(due), said(end));
    }

    /// A transfer that must be let through to `frames`; `right` says whether the bytes are where they belong. Returns
    /// whether it was.
    pub fn moved(
        &mut self,
        check: &str,
        device: &mut Device,
        transfer: Transfer,
        frames: &[PhysExtent],
        right: impl FnOnce() -> bool,
    ) -> bool {
        let (seen, markers, error) = self.run(device, transfer);
        let outcome = match (error, seen.faults.len()) {
            (Some(error), _) => error,
            (None, _) if seen.lost => Outcome::Lost,
            (None, 0) if seen.told == Some(false) => Outcome::Told(false),
            (None, 0) if right() => Outcome::Moved,
            (None, 0) => Outcome::WrongBytes,
            (None, count) => Outcome::Faults(count),
        };
        let entry = entry(check, device, transfer, frames, markers);
        self.report.check(&entry, Outcome::Moved, outcome, seen.faults.first());
        outcome == Outcome::Moved
    }

    /// A transfer that must be refused for `refusal`; `intact` says whether nothing has moved.
    pub fn refused(
        &mut self,
        check: &str,
        device: &mut Device,
        transfer: Transfer,
        refusal: Refusal,
        intact: impl FnOnce() -> bool,
    ) {
        let Transfer { access, iova, len } = transfer;
        let due = self.unit.reports_of(refusal, device.stream, access, iova, len);
        self.not_moved(check, device, transfer, (&due, ""), intact);
    }

    /// The same, where each fault must say `says`, among others, of where it was refused.
    pub fn refused_in(
        &mut self,
        check: &str,
        device: &mut Device,
        transfer: Transfer,
        (refusal, says): (Refusal, &str),
        intact: impl FnOnce() -> bool,
    ) {
        let Transfer { access, iova, len } = transfer;
        let due = self.unit.reports_of(refusal, device.stream, access, iova, len);
        self.not_moved(check, device, transfer, (&due, says), intact);
    }

    /// A write to a read-only page whose translation the unit has cached by now: refused like any other, but where the
    /// unit is one that drops such writes silently no fault is due.
    pub fn refused_warm(
        &mut self,
        check: &str,
        device: &mut Device,
        transfer: Transfer,
        stage: Stage,
        intact: impl FnOnce() -> bool,
    ) {
        if self.unit.drops_cached_refusals(stage) {
            self.not_moved(check, device, transfer, (&[], ""), intact);
        } else {
            self.refused(check, device, transfer, Refusal::ReadOnly(stage), intact);
        }
    }

    /// A transfer that must come to the faults in `due`, each of which says `says`, with nothing moved.
    fn not_moved(
        &mut self,
        check: &str,
        device: &mut Device,
        transfer: Transfer,
        (due, says): (&[Reported], &str),
        intact: impl FnOnce() -> bool,
    ) {
        let (seen, markers, error) = self.run(device, transfer);
        let stream = device.stream.id;
        let expected = due.first().map_or(Outcome::Dropped, |first| Outcome::Refused(stream, *first));
        let outcome = match (error, seen.told) {
            (Some(error), _) => error,
            (None, Some(true)) => Outcome::Told(true),
            (None, _) => {
                match (seen.judge(stream, due, intact()), seen.faults.iter().find(|one| !one.text.contains(says))) {
                    (Outcome::Refused(..), Some(fault)) => Outcome::Said(fault.text),
                    (outcome, _) => outcome,
                }
            }
        };
        let entry = entry(check, device, transfer, &[], markers);
        self.report.check(&entry, expected, outcome, seen.faults.first());
    }

    /// Brings `pattern` from `from` into the device and on to `to`, in two checks.
    pub fn round_trip(
        &mut self,
        check: &str,
        device: &mut Device,
        pattern: &[u8],
        (from, from_offset): (&Buffer, u64),
        (to, to_offset): (&Buffer, u64),
    ) {
        let len = pattern.len();
        from.write(from_offset, pattern);
        to.write(to_offset, &inverted(pattern));
        let read = Transfer::read(from.at(from_offset), len);
        let frames = from.frames(from_offset, len as u64);
        // What the device holds shows only once it is written back.
        self.moved(&alloc::format!("{check}: read"), device, read, &frames, || true);
        self.write_back(&alloc::format!("{check}: write"), device, pattern, (to, to_offset));
    }

    /// Has the device write its buffer to `to`, where `pattern` must arrive.
    pub fn write_back(&mut self, check: &str, device: &mut Device, pattern: &[u8], (to, offset): (&Buffer, u64)) {
        let write = Transfer::write(to.at(offset), pattern.len());
        let frames = to.frames(offset, pattern.len() as u64);
        if self.moved(check, device, write, &frames, || holds(to, offset, pattern)) {
            device.held = pattern.to_vec();
        }
    }

    /// Runs the transfer between two markers and collects the faults that it causes.
    fn run(&mut self, device: &mut Device, transfer: Transfer) -> (Seen, Option<(u32, u32)>, Option<Outcome>) {
        let mut before = Seen::default();
        self.drain(&mut before);
        let begin = match self.unit.sync() {
            Ok(begin) => begin,
            Err(error) => return (before, None, Some(Outcome::Unit(error))),
        };
        if transfer.access == AccessKind::Read {
            device.held.clear();
        }
        let ran = device.engine.transfer(transfer);
        let mut seen = Seen { told: ran.unwrap_or_default(), ..Seen::default() };
        self.drain(&mut seen);
        // A fault from before belongs to no check: it must not pass unseen.
        seen.faults.splice(..0, before.faults);
        seen.lost |= before.lost;
        match (ran, self.unit.sync()) {
            (Ok(_), Ok(end)) => (seen, Some((begin, end)), None),
            (Err(error), _) => (seen, None, Some(Outcome::Device(error))),
            (_, Err(error)) => (seen, None, Some(Outcome::Unit(error))),
        }
    }

    fn drain(&mut self, seen: &mut Seen) {
        loop {
            let report = self.unit.report_faults(&mut |fault| {
                println!("          {fault}");
                seen.faults.push(*fault);
            });
            seen.lost |= report.lost;
            if !report.more {
                return;
            }
        }
    }
}

/// The record of one transfer but its outcome.
fn entry<'a>(
    check: &'a str,
    device: &Device,
    transfer: Transfer,
    frames: &'a [PhysExtent],
    markers: Option<(u32, u32)>,
) -> Entry<'a> {
    Entry {
        stream: Some(device.stream),
        iova: Some(transfer.iova.get()),
        length: Some(transfer.len as u64),
        access: Some(if transfer.access == AccessKind::Read { "read" } else { "write" }),
        frames,
        markers,
        ..Entry::new("dma", check)
    }
}

/// Bytes that no other seed gives.
pub fn pattern(seed: u8) -> [u8; BUFFER_SIZE] {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    core::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

/// Whether `buffer` holds `bytes` at `offset`.
pub fn holds(buffer: &Buffer, offset: u64, bytes: &[u8]) -> bool {
    let mut found = [0; BUFFER_SIZE];
    let Some(found) = found.get_mut(..bytes.len()) else { return false };
    buffer.read(offset, found);
    found == bytes
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}
