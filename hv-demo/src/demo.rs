//! What the demo does once the platform stands: find the functions, bring the IOMMUs up, run the scenario.

use crate::arch::iommu::Iommus;
use crate::checks::{Device, Engine};
use crate::cmdline::CommandLine;
use crate::doorbell::Doorbell;
use crate::edu::Edu;
use crate::function::ConfigSpace;
use crate::hal::map_registers;
use crate::pci::{Ecam, PciFunction};
use crate::platform::{PciHost, Platform};
use crate::report::Report;
use crate::scenario::Scenario;
use crate::{arch, crash, memory, pci, scenario};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::device::{self as core_device, DeviceConfig};
use iommu_core::group::Group;
use iommu_core::hw::{Stream, StreamId};
use iommu_core::region::RegionKind;
use iommu_core::sync;
use iommu_discovery::Sbdf;
use iommu_discovery::topology::{FunctionKind, GroupId, Topology};

/// Names of the functions that do DMA, in the order of their addresses.
const NAMES: [&str; 4] = ["edu0", "edu1", "edu2", "edu3"];

/// Runs the demo.
pub fn kernel_main(platform: Platform) -> ! {
    // There is one CPU. With it named, debug builds check the order of the core's locks.
    sync::set_platform(sync::Platform { wait: core::hint::spin_loop, cpu: || 0, before_lock: || () });
    let cmdline = CommandLine::new(platform.cmdline);
    if let Some(kind) = cmdline.values("crash").last() {
        crash::on_purpose(kind);
    }
    let name = cmdline.scenario().unwrap_or_default();
    let mut report = Report::start(name);
    if let Err(what) = run(&platform, name, &mut report) {
        report.trouble("set-up", &what);
    }
    if report.end() { arch::exit::success() } else { arch::exit::failure() }
}

fn run(platform: &Platform, name: &str, report: &mut Report) -> Result<(), String> {
    let cmdline = CommandLine::new(platform.cmdline);
    let scenario = Scenario::named(name).ok_or_else(|| format!("there is no scenario {name}"))?;
    print_platform(platform);

    let mut ecam = Ecam::default();
    for PciHost { ecam: region, .. } in &platform.hosts {
        // SAFETY: the firmware says that this is configuration space, and this is the one access to it.
        let window = unsafe { map_registers(region.start(), region.len_bytes() as usize) };
        ecam.add(*region, window.map_err(|_| "configuration space cannot be mapped")?);
    }
    for PciHost { ecam: region, windows } in &platform.hosts {
        if let Some(windows) = windows {
            // SAFETY: no function is in use yet; consoles and timers are not PCI functions here.
            unsafe { pci::assign(&ecam, region, windows) }.map_err(|error| format!("PCI: {error}"))?;
        }
    }
    // SAFETY: as above.
    let functions = unsafe { pci::enumerate(&ecam) };
    for function in &functions {
        // SAFETY: no driver runs yet that would miss it. What firmware left running must not do DMA while the units
        // come up; a bridge that is off forwards none.
        unsafe { function.set_bus_master(&ecam, false) };
    }
    let masters = functions.iter().filter(|function| function.is_bus_master(&ecam)).count();
    report.state("functions that can do DMA while the units come up", 0, masters);
    let ecam = Arc::new(ecam);
    let topology = Topology::new(functions.iter().map(|function| function.function))
        .map_err(|error| format!("PCI topology: {error}"))?;

    let iommus = Iommus::bring_up(platform, &topology)?;
    iommus.iter().for_each(scenario::print_unit);
    print_functions(&functions, &topology, &iommus)?;

    let mut dma: Vec<&PciFunction> = functions.iter().filter(|function| Edu::is(function)).collect();
    dma.sort_by_key(|function| function.sbdf());
    let [first, second, third, fourth] = dma[..] else {
        return Err(format!("four edu functions are needed, {} are there", dma.len()));
    };
    let unit = iommus.unit_of(&topology, first.sbdf()).ok_or("no unit serves the first function")?;
    // Bridges do no DMA of their own; what they forward is up to the functions below them.
    for bridge in functions.iter().filter(|function| matches!(function.function.kind, FunctionKind::Bridge { .. })) {
        // SAFETY: translation is on, so that what it forwards reaches what its requester id is given and nothing else.
        unsafe { bridge.set_bus_master(&*ecam, true) };
    }
    let groups = topology.groups().map_err(|error| format!("groups: {error}"))?;
    // As the core has them: functions that cannot be kept apart have one owner.
    let mut owned: Vec<(GroupId, Group)> = Vec::new();
    let mut devices: Vec<(Device, Vec<StreamId>)> = Vec::new();
    for (name, function) in NAMES.into_iter().zip([first, second, third, fourth]) {
        let serving = iommus.unit_of(&topology, function.sbdf()).ok_or("no unit serves a function")?;
        if !Arc::ptr_eq(serving, unit) {
            return Err(format!("{name} has another unit than the others"));
        }
        let stream_of = |id| {
            let stream = iommus.stream_of(Sbdf::new(function.sbdf().segment, id));
            stream.ok_or_else(|| format!("{name}: no unit sees its DMA as {id}"))
        };
        let streams: Vec<StreamId> = topology.aliases(function.sbdf()).map(stream_of).collect::<Result<_, _>>()?;
        let space = ConfigSpace::new(ecam.clone(), (*function).clone());
        // SAFETY: firmware gave the BARs their addresses; this is the one driver; reading an edu's registers does
        // nothing; and translation is on, so that the function's DMA reaches what it is given and nothing else.
        let (edu, doorbell) = unsafe {
            function.set_memory_decoding(&*ecam, true);
            space.let_loose();
            (Edu::new(function).map_err(|error| format!("{name}: {error}"))?, Doorbell::find(function))
        };
        if doorbell.is_some() {
            println!("{name} has a doorbell for requests with a PASID");
        }
        let space = Arc::new(space.with_doorbell(doorbell));
        println!("{name} is {}, identification {:#x}", function.sbdf(), edu.identification());
        report.state(&format!("{name} answers"), true, edu.is_alive());
        let stream = stream_of(topology.dma_id(function.sbdf()))?;
        let id = groups.of(function.sbdf()).ok_or("a function is in no group")?.id;
        let group = match owned.iter().find(|(known, _)| *known == id) {
            Some((_, group)) => group.clone(),
            None => {
                let group = Group::new(None).map_err(|error| format!("{name}: {error}"))?;
                owned.push((id, group.clone()));
                group
            }
        };
        let regions = iommus.regions_of(&topology, function.sbdf())?;
        let assigned = core_device::Device::new(
            &group,
            &DeviceConfig {
                unit: unit.clone(),
                streams: &streams,
                function: Some(space.clone()),
                regions: &regions,
                coherent: true,
                // Interrupt remapping is a later step.
                isolated_msi: false,
                router: None,
                account: None,
            },
        );
        let assigned = assigned.map_err(|error| format!("{name}: {error}"))?;
        let (engine, stream, assigned) = (Engine::Edu(edu), Stream::function(stream), Arc::new(assigned));
        devices.push((Device { name, engine, stream, assigned, space, held: Vec::new() }, streams));
    }
    // Firmware may fold requesters into one stream; such functions can have one owner only.
    let mut pairs =
        devices.iter().enumerate().flat_map(|(at, one)| devices[..at].iter().map(move |other| (one, other)));
    if let Some(((one, _), (other, _))) = pairs.find(|((_, one), (_, other))| one.iter().any(|id| other.contains(id))) {
        return Err(format!("{} and {} are the same stream to their unit", other.name, one.name));
    }
    let devices: Vec<Device> = devices.into_iter().map(|(device, _)| device).collect();
    let devices = devices.try_into().map_err(|_| "four devices")?;

    scenario::check_options(&**unit, cmdline, report);
    scenario.run(unit, devices, report);
    Ok(())
}

fn print_platform(platform: &Platform) {
    for run in platform.memory {
        println!("memory {} + {:#x}", run.start, run.len);
    }
    let image = memory::image_range();
    println!("image {:#x}..{:#x}, {} MiB free", image.start, image.end, memory::free_bytes() >> 20);
    if let Some(rsdp) = platform.rsdp {
        println!("ACPI root at {rsdp}, DMAR of {} bytes", platform.dmar.map_or(0, <[u8]>::len));
    }
    if let Some(tree) = platform.devicetree {
        println!("devicetree of {} bytes", tree.len());
    }
}

fn print_functions(functions: &[PciFunction], topology: &Topology, iommus: &Iommus) -> Result<(), String> {
    for function in functions {
        let sbdf = function.sbdf();
        let (vendor, device) = (function.vendor, function.device);
        print!("function {sbdf} {vendor:04x}:{device:04x} class {:06x}", function.function.class);
        match topology.dma_id(sbdf) {
            id if id == sbdf.id => println!(),
            id => println!(", its DMA seen as {id}"),
        }
        for (index, bar) in function.bars.iter().enumerate() {
            if let Some(bar) = bar {
                let prefetchable = if bar.prefetchable { ", prefetchable" } else { "" };
                println!("  BAR{index} {:?} at {}, {:#x} bytes{prefetchable}", bar.kind, bar.base, bar.size);
            }
        }
        print_capabilities(function);
        for region in iommus.regions_of(topology, sbdf)? {
            if let RegionKind::Direct { prot } = region.kind {
                println!("  firmware wants {} mapped to itself for it, {prot}", region.range);
            }
        }
    }
    let groups = topology.groups().map_err(|error| format!("groups: {error}"))?;
    for group in groups.iter() {
        print!("group {}:", group.id);
        group.members.iter().for_each(|member| print!(" {member}"));
        println!();
    }
    Ok(())
}

fn print_capabilities(function: &PciFunction) {
    if function.capabilities.is_empty() {
        return;
    }
    print!("  capabilities");
    function.capabilities.iter().for_each(|found| print!(" {:#04x}@{:#x}", found.id, found.offset));
    if !function.extended_capabilities.is_empty() {
        print!(", extended");
        function.extended_capabilities.iter().for_each(|found| {
            print!(" {:#06x}v{}@{:#x}", found.id, found.version, found.offset);
        });
    }
    println!();
}
