//! Assignable device interfaces: parts of one function that nothing tells apart but the PASID of their requests.
//!
//! The hypervisor keeps the function. Its requests without a PASID lead to a domain of the hypervisor's in which nothing
//! is mapped, or for a while to a partition that has the function as a whole; each PASID leads to the partition that has
//! that PASID. On a unit whose PASIDs have one bit there is one such part, beside a partition with the whole function.

mod steps;

use crate::arch;
use crate::checks::{Device, Lab, changes, inside, outside};
use crate::iommu::{DemoUnit, Refusal};
use crate::partition::{Partition, address};
use crate::report::Report;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use iommu_core::Error;
use iommu_core::group::OwnerId;
use iommu_core::hw::Pasid;
use iommu_core::pasid::{PasidSpace, PasidState};
use steps::{Host, both_forget, pasid, still_there};

/// PASIDs of more than 16 bits whose lower 16 are the same, and one of nobody that differs from the first in these upper
/// bits only.
const WIDE: [u32; 3] = [0x1_2345, 0x2_2345, 0xf_2345];
const WIDE_OF_NOBODY: u32 = 0x2345;

/// Runs every check on `unit`, with the one of `devices` that has a doorbell; or with a unit and a function in software, where
/// the machine's know no PASIDs.
pub fn run(unit: &Arc<dyn DemoUnit>, devices: [Device; 4], report: &mut Report) {
    let (unit, function) = match arch::iommu::with_parts(unit, devices) {
        Ok(found) => found,
        Err(what) => return report.trouble("a function that sends PASIDs", &what),
    };
    if !unit.is_traced() {
        report.without_trace();
    }
    if let Err(what) = with(&unit, function, report) {
        report.trouble("set-up of the parts", &what);
    }
}

fn with(unit: &Arc<dyn DemoUnit>, function: Device, report: &mut Report) -> Result<(), String> {
    let says = |error: Error| format!("{error}");
    let capabilities = unit.capabilities();
    let bits = capabilities.pasid_bits;
    let told = function.space.doorbell().map_or(0, |doorbell| doorbell.pasid_bits());
    report.state("bits of a PASID, by the unit and by the function", told, bits);
    let stage = unit.stage_of_parts();
    println!("  {} tells parts apart by {bits} bits, translated by the {stage:?} stage", function.name);

    // 0 stands for requests without one.
    let zero = pasid(0)?;
    let space = PasidSpace::new(bits, &[(zero, zero)]).map_err(says)?;
    let partition =
        |name, owner, private| Partition::new(name, OwnerId(owner), unit, stage, private, Some(&space)).map_err(says);
    let (red, blue) = (partition("red", 1, address::RED)?, partition("blue", 2, address::BLUE)?);
    let doorbell = function.part("the doorbell", None).ok_or("the function has no doorbell")?;
    let bench = Bench { unit, space: &space, function, doorbell };
    let lab = &mut Lab { unit: &**unit, stage, report };
    if u32::from(bits) == Pasid::BITS {
        let green = partition("green", 3, address::GREEN)?;
        bench.many(lab, red, blue, green)
    } else {
        bench.one(lab, red, blue)
    }
}

/// What both kinds of run share.
struct Bench<'a> {
    unit: &'a Arc<dyn DemoUnit>,
    space: &'a PasidSpace,
    /// The function as a whole, with its own engine that sends no PASIDs.
    function: Device,
    /// The same, with the doorbell's engine.
    doorbell: Device,
}

impl Bench<'_> {
    /// Three parts of three partitions.
    fn many(mut self, lab: &mut Lab<'_>, red: Partition, blue: Partition, green: Partition) -> Result<(), String> {
        let [first, second, third] = WIDE;
        let (mut one, mut two, mut three) =
            (self.part("adi-red", first)?, self.part("adi-blue", second)?, self.part("adi-green", third)?);
        let (mut nobody, mut neighbour) = (self.part("nobody", WIDE_OF_NOBODY)?, self.part("next", first + 1)?);
        self.switched_on(lab, &mut one, &red);

        let host = Host::new(self.unit, lab.stage)?;
        self.attach_function(lab, &host);
        outside::blocked(lab, "before any PASID", &mut one, &red, Refusal::NothingAttachedByPasid, 5);
        self.empty(lab, &red, 7);
        for (part, partition) in [(&one, &red), (&two, &blue), (&three, &green)] {
            self.attach_part(lab, part, partition);
        }
        self.refusals(lab, &red, &blue, first);

        inside::run(lab, &mut one, &red, 10);
        inside::run(lab, &mut two, &blue, 30);
        inside::run(lab, &mut three, &green, 40);
        for (part, own, others, seed) in [
            (&mut one, &red, [&blue, &green], 50),
            (&mut two, &blue, [&green, &red], 60),
            (&mut three, &green, [&red, &blue], 70),
        ] {
            outside::other_partition(lab, part, own, others[0], seed);
            outside::other_partition(lab, part, own, others[1], seed + 3);
            outside::same_address(lab, part, own, others[0], seed + 6);
            outside::same_address(lab, part, own, others[1], seed + 8);
            outside::hypervisor(lab, part, own);
        }
        outside::blocked(lab, "of nobody", &mut nobody, &red, Refusal::NothingAttachedByPasid, 80);
        outside::blocked(lab, "of nobody", &mut neighbour, &red, Refusal::PasidNotAttached, 81);
        self.empty(lab, &red, 82);

        changes::quota(lab, &red);
        changes::unmap_and_remap(lab, &mut one, &red, 0, 84);
        changes::unmap_and_remap(lab, &mut one, &red, 9, 88);
        changes::detach(lab, &mut one, &red, 92);
        still_there(lab, &mut two, &blue, "after the detach of another", 95);

        // The same partition by PASID and without: what is taken away is gone for both.
        lab.replace("green: gets the whole function", &self.function, green.hwpt());
        still_there(lab, &mut self.function, &green, "as a whole", 98);
        outside::other_partition(lab, &mut self.function, &green, &red, 100);
        outside::other_partition(lab, &mut one, &red, &green, 103);
        both_forget(lab, &mut self.function, &mut three, &green, 106);
        lab.replace("green: the whole function is taken away", &self.function, &host.hwpt);
        self.empty(lab, &green, 110);

        changes::change_owner(lab, &mut three, &green, &blue, 112);
        still_there(lab, &mut one, &red, "after the move of another", 116);
        let given = one.stream.pasid;
        changes::end_of_partition(lab, &mut one, &[], red, 120);
        let free = given.map(|pasid| self.space.state(pasid));
        lab.report.state("red: its PASID is free after its end", true, free == Some(PasidState::Free));
        still_there(lab, &mut two, &blue, "after the end of another", 124);
        still_there(lab, &mut three, &blue, "after the end of another", 127);
        changes::end_of_partition(lab, &mut two, &[&three], blue, 130);
        outside::blocked(lab, "blue is gone", &mut three, &green, Refusal::PasidNotAttached, 134);
        self.empty(lab, &green, 136);
        self.ends(lab, &host);
        Ok(())
    }

    /// One part of red beside the whole function, which blue has.
    fn one(mut self, lab: &mut Lab<'_>, red: Partition, blue: Partition) -> Result<(), String> {
        let mut part = self.part("adi-red", 1)?;
        let mut beyond = self.part("beyond", 2)?;
        self.switched_on(lab, &mut part, &red);

        let host = Host::new(self.unit, lab.stage)?;
        self.attach_function(lab, &host);
        outside::blocked(lab, "before any PASID", &mut part, &red, Refusal::PasidNotAttached, 5);
        self.empty(lab, &red, 7);
        lab.replace("blue: gets the whole function", &self.function, blue.hwpt());
        self.attach_part(lab, &part, &red);
        self.refusals(lab, &red, &blue, 1);
        self.beyond_the_width(lab, &mut beyond, &red)?;

        inside::run(lab, &mut part, &red, 10);
        inside::run(lab, &mut self.function, &blue, 30);
        outside::other_partition(lab, &mut part, &red, &blue, 50);
        outside::other_partition(lab, &mut self.function, &blue, &red, 53);
        outside::same_address(lab, &mut part, &red, &blue, 56);
        outside::same_address(lab, &mut self.function, &blue, &red, 58);
        outside::hypervisor(lab, &mut part, &red);
        outside::hypervisor(lab, &mut self.function, &blue);

        changes::quota(lab, &red);
        changes::unmap_and_remap(lab, &mut part, &red, 0, 70);
        changes::unmap_and_remap(lab, &mut part, &red, 9, 75);
        changes::detach(lab, &mut part, &red, 80);
        still_there(lab, &mut self.function, &blue, "after the detach of a part", 84);
        changes::change_owner(lab, &mut part, &red, &blue, 87);
        both_forget(lab, &mut self.function, &mut part, &blue, 91);
        lab.move_to("move adi-red back from blue to red", &part, &blue, &red);
        lab.replace("blue: the whole function is taken away", &self.function, &host.hwpt);
        self.empty(lab, &blue, 95);
        changes::end_of_partition(lab, &mut part, &[], red, 100);
        let free = part.stream.pasid.map(|pasid| self.space.state(pasid));
        lab.report.state("red: its PASID is free after its end", true, free == Some(PasidState::Free));
        self.empty(lab, &blue, 105);
        self.ends(lab, &host);
        Ok(())
    }
}
