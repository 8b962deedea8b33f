//! The same by `iommu-core`'s objects: an address space, a device of a group and its owner. It is never run, either.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
#[path = "../embedder.rs"]
mod embedder;

#[cfg(target_os = "none")]
mod image {
    use crate::embedder::Machine;
    use alloc::sync::Arc;
    use core::hint::black_box;
    use core::ptr::{self, NonNull};
    use iommu_core::Error;
    use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
    use iommu_core::device::{AttachTo, Device, DeviceConfig};
    use iommu_core::group::{Group, OwnerId};
    use iommu_core::hw::{Prot, RequesterId, Unit as _};
    use iommu_core::ioas::{Ioas, IoasConfig, Placement};
    use iommu_hal::regs::Mmio;
    use iommu_vtd::{Config, Unit};

    /// Where the image would begin.
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        black_box(isolate().is_ok());
        loop {
            core::hint::spin_loop();
        }
    }

    /// Up, attached, mapped, unmapped, faults, detached. Nothing here is known when the image is built.
    fn isolate() -> Result<usize, Error> {
        let registers = NonNull::new(ptr::with_exposed_provenance_mut(black_box(0xfed9_0000_usize)));
        // SAFETY: never run; where it were, the unit's registers would lie there.
        let registers = unsafe { Mmio::new(registers.unwrap_or(NonNull::dangling()), 0x1000) };
        let unit = Arc::new(Unit::bring_up(Machine, registers, Config::default())?);

        let group = Group::new(None)?;
        let device = Device::new(
            &group,
            &DeviceConfig {
                unit: unit.clone(),
                streams: &[RequesterId::new(black_box(8)).into()],
                function: None,
                regions: &[],
                coherent: true,
                isolated_msi: true,
                router: None,
                account: None,
            },
        )?;
        device.bind(OwnerId(1), false)?;

        let space = Ioas::new(IoasConfig::default())?;
        let memory = PhysExtent::new(PhysAddr::new(black_box(0x4000_0000)), black_box(0x20_0000));
        space.map_extents(&[memory], Placement::Fixed(Iova::new(black_box(0))), Prot::READ_WRITE)?;
        device.attach(AttachTo::Auto(&space))?;
        if let Some(range) = IovaRange::from_len(Iova::new(black_box(0)), memory.len) {
            space.unmap(range)?;
        }
        let faults = unit.report_faults(&mut |fault| {
            black_box(fault);
        });
        device.detach()?;
        Ok(faults.reported)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("built for a bare target, to be measured: cargo test -p iommu-tests --test text_size");
}
