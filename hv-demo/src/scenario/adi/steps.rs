//! The steps of such a run.

use super::Bench;
use crate::checks::lab::{Transfer, holds, pattern};
use crate::checks::{Device, Lab, changes, outside};
use crate::iommu::{DemoUnit, Refusal};
use crate::partition::{Buffer, Partition, address};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use iommu_core::Error;
use iommu_core::device::{AttachTo, Feature};
use iommu_core::group::OwnerId;
use iommu_core::hw::{HwError, Pasid, Prot, Stage, Stream, Target, Unit};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};

/// Who has the function.
const HYPERVISOR: OwnerId = OwnerId(100);

impl Bench<'_> {
    pub(super) fn part(&self, name: &'static str, raw: u32) -> Result<Device, String> {
        self.function.part(name, Some(pasid(raw)?)).ok_or_else(|| String::from("the function has no doorbell"))
    }

    /// PASIDs are switched on in the function; before that it sends none, and before any attach all are refused.
    pub(super) fn switched_on(&self, lab: &mut Lab<'_>, part: &mut Device, victim: &Partition) {
        let silent = part.engine.transfer(Transfer::write(victim.page.iova(), 64)).is_err();
        lab.report.state("no PASIDs before they are switched on", true, silent);
        let assigned = &self.function.assigned;
        match assigned.enable(Feature::Pasid) {
            Ok(()) => lab.report.state("PASIDs are switched on", true, assigned.is_enabled(Feature::Pasid)),
            Err(error) => lab.report.trouble("PASIDs are switched on", &error),
        }
        outside::blocked(lab, "before any attach", part, victim, Refusal::NothingAttached, 1);
    }

    pub(super) fn attach_function(&self, lab: &mut Lab<'_>, host: &Host) {
        let assigned = &self.function.assigned;
        lab.change("attach", "the hypervisor keeps the function", &self.function, || {
            // As for all functions of the demo: it raises no interrupts.
            assigned.bind(HYPERVISOR, true)?;
            assigned.attach(AttachTo::Hwpt(&host.hwpt)).map(|_| ())
        });
    }

    pub(super) fn attach_part(&self, lab: &mut Lab<'_>, part: &Device, partition: &Partition) {
        let taken = part.stream.pasid.map_or(Ok(()), |pasid| partition.take_pasid(pasid));
        let name = partition.name;
        lab.report.state(&format!("{name}: gets a PASID"), true, taken.is_ok());
        lab.attach(&format!("{name}: attach {}", part.name), part, partition);
    }

    /// What must not be attached: a PASID that the other partition has, one that is attached already, and the one that
    /// stands for requests without.
    pub(super) fn refusals(&self, lab: &mut Lab<'_>, red: &Partition, blue: &Partition, raw: u32) {
        let (Some(of_red), Some(zero)) = (Pasid::new(raw), Pasid::new(0)) else { return };
        let (assigned, to) = (&self.function.assigned, AttachTo::Hwpt(blue.hwpt()));
        let stolen = blue.pasids().and_then(|set| assigned.attach_pasid_of(set, of_red, to)).err();
        lab.report.state("blue: cannot attach red's PASID", true, stolen == Some(Error::NoSuchPasid(of_red)));
        let taken = blue.take_pasid(of_red).err();
        lab.report.state("blue: cannot have red's PASID", true, matches!(taken, Some(Error::NoSpace { .. })));
        let twice = red.pasids().and_then(|set| assigned.attach_pasid_of(set, of_red, to)).err();
        lab.report.state("a PASID that is attached is not attached again", true, twice == Some(Error::Busy));
        let stream = Stream::with_pasid(self.function.stream.id, zero);
        let refused = self.unit.attach(stream, Target::Paging(red.hwpt().domain())).err();
        let expected = matches!(refused, Some(HwError::Unsupported(_)));
        lab.report.state("PASID 0 is the unit's own", true, expected);
    }

    /// A PASID that the unit does not take: refused as a missing capability by the unit, and before it by the core. Nothing
    /// changes: DMA with it goes nowhere.
    pub(super) fn beyond_the_width(
        &self,
        lab: &mut Lab<'_>,
        beyond: &mut Device,
        red: &Partition,
    ) -> Result<(), String> {
        let two = pasid(2)?;
        let begin = lab.unit.marker();
        let (assigned, to) = (&self.function.assigned, AttachTo::Hwpt(red.hwpt()));
        let refused = self.unit.attach(beyond.stream, Target::Paging(red.hwpt().domain()));
        println!("  PASID 2 by the unit: {refused:?}");
        lab.report.state("PASID 2: the unit misses a capability", true, matches!(refused, Err(HwError::Missing(_))));
        let refused = assigned.attach_pasid(two, to);
        println!("  PASID 2 by the core: {refused:?}");
        lab.report.state("PASID 2: the core refuses it", true, matches!(refused, Err(Error::Invalid(_))));
        let refused = red.take_pasid(two);
        lab.report.state("PASID 2: nobody can have it", true, matches!(refused, Err(Error::NoSpace { .. })));
        lab.report.state("PASID 2: hardware was told nothing", begin, lab.unit.marker());
        outside::blocked(lab, "beyond the width", beyond, red, Refusal::PasidNotAttached, 8);
        Ok(())
    }

    /// Requests without a PASID find nothing mapped, wherever they go.
    pub(super) fn empty(&mut self, lab: &mut Lab<'_>, victim: &Partition, seed: u8) {
        let bytes = pattern(seed);
        for (device, buffer, what) in
            [(&mut self.function, &victim.page, "its page"), (&mut self.doorbell, &victim.private, "its private page")]
        {
            buffer.write(0, &bytes);
            for transfer in [Transfer::write(buffer.iova(), 64), Transfer::read(buffer.iova(), 64)] {
                let (name, access) = (device.name, transfer.access);
                let check = format!("without PASID: {access} of {name} where {} has {what}", victim.name);
                let refusal = Refusal::NotMapped(lab.stage, access);
                lab.refused(&check, device, transfer, refusal, || holds(buffer, 0, &bytes));
            }
        }
    }

    /// The hypervisor gives the function up, with nothing attached by PASID any more.
    pub(super) fn ends(self, lab: &mut Lab<'_>, host: &Host) {
        let assigned = &self.function.assigned;
        lab.detach("the hypervisor gives the function up", &self.function);
        let off = assigned.disable(Feature::Pasid).is_ok() && !assigned.is_enabled(Feature::Pasid);
        lab.report.state("PASIDs are switched off", true, off);
        let nothing = host.ioas.unmap_all().is_ok_and(|bytes| bytes == 0);
        lab.report.state("the hypervisor's domain was empty all along", true, nothing);
    }
}

/// What the hypervisor keeps for itself: a domain in which nothing is mapped.
pub(super) struct Host {
    // Before the address space: it leaves that first.
    pub(super) hwpt: Hwpt,
    ioas: Ioas,
}

impl Host {
    pub(super) fn new(unit: &Arc<dyn DemoUnit>, stage: Stage) -> Result<Self, String> {
        let says = |error: Error| format!("the hypervisor's domain: {error}");
        let ioas = Ioas::new(IoasConfig::default()).map_err(says)?;
        let unit: Arc<dyn Unit> = unit.clone();
        let hwpt = Hwpt::new(&ioas, &unit, HwptConfig { pasid: true, ..HwptConfig::new(stage) }).map_err(says)?;
        Ok(Self { hwpt, ioas })
    }
}

/// A PASID, which 20 bits hold.
pub(super) fn pasid(raw: u32) -> Result<Pasid, String> {
    Pasid::new(raw).ok_or_else(|| format!("{raw:#x} is no PASID"))
}

/// A device of `own` does what it did before something happened to others.
pub(super) fn still_there(lab: &mut Lab<'_>, device: &mut Device, own: &Partition, when: &str, seed: u8) {
    let check = format!("{}: {} {when}", own.name, device.name);
    lab.round_trip(&check, device, &pattern(seed), (&own.scattered, 0x10), (&own.private, 0));
}

/// Memory that two streams of one function reach through one domain, and that is taken away from both at once.
pub(super) fn both_forget(lab: &mut Lab<'_>, one: &mut Device, other: &mut Device, own: &Partition, seed: u8) {
    let name = own.name;
    let Some(buffer) = Buffer::contiguous(address::CHANGING, 0, Prot::READ_WRITE) else {
        return lab.report.trouble(&format!("{name}: memory for both"), &"out of memory");
    };
    if let Err(error) = own.map(&buffer) {
        return lab.report.trouble(&format!("{name}: map for both"), &error);
    }
    for (device, seed) in [(&mut *one, seed), (&mut *other, seed + 1)] {
        let check = format!("{name}: {} where both may", device.name);
        lab.round_trip(&check, device, &pattern(seed), (&own.page, 0), (&buffer, 0));
    }
    if !changes::unmap(lab, &format!("{name}: unmap for both"), other, own, &buffer) {
        return;
    }
    let kept = pattern(seed + 2);
    buffer.write(0, &kept);
    for device in [one, other] {
        for transfer in [Transfer::write(buffer.iova(), 64), Transfer::read(buffer.iova(), 64)] {
            let check = format!("{name}: {} of {} where neither may", transfer.access, device.name);
            let refusal = Refusal::NotMapped(lab.stage, transfer.access);
            lab.refused(&check, device, transfer, refusal, || holds(&buffer, 0, &kept));
        }
    }
}
