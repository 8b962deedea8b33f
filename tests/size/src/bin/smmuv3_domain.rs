//! The same as `domain` for SMMUv3, built for the same target so that the two can be compared: `iommu-core`'s seam and the
//! driver behind it, one domain being the address space. It is never run: what counts is how much text the two crates bring
//! along.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "../embedder.rs"]
mod embedder;

#[cfg(target_os = "none")]
mod image {
    use crate::embedder::Machine;
    use core::hint::black_box;
    use core::ptr::{self, NonNull};
    use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
    use iommu_core::hw::{DomainConfig, Gather, HwError, Prot, Stage, Stream, StreamId, Target, Unit as _};
    use iommu_hal::regs::Mmio;
    use iommu_smmuv3::{Config, Unit};

    /// Where the image would begin.
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        black_box(isolate().is_ok());
        loop {
            core::hint::spin_loop();
        }
    }

    /// Up, attached, mapped, unmapped, faults, detached. Nothing here is known when the image is built.
    fn isolate() -> Result<usize, HwError> {
        let registers = NonNull::new(ptr::with_exposed_provenance_mut(black_box(0x0905_0000_usize)));
        // SAFETY: never run; where it were, the unit's registers would lie there.
        let registers = unsafe { Mmio::new(registers.unwrap_or(NonNull::dangling()), 0x2_0000) };
        let unit = Unit::bring_up(Machine, registers, Config::default())?;

        let memory = PhysExtent::new(PhysAddr::new(black_box(0x4000_0000)), black_box(0x20_0000));
        let domain = unit.create_domain(&DomainConfig::new(Stage::Second))?;
        domain.map(Iova::new(black_box(0)), &[memory], Prot::READ_WRITE)?;
        let stream = Stream::function(StreamId::new(black_box(8)));
        unit.attach(stream, Target::Paging(&*domain))?;
        if let Some(range) = IovaRange::from_len(Iova::new(black_box(0)), memory.len) {
            let mut gather = Gather::new();
            domain.unmap(range, &mut gather)?;
            domain.flush(&mut gather)?;
        }
        let faults = unit.report_faults(&mut |fault| {
            black_box(fault);
        });
        unit.detach(stream)?;
        Ok(faults.reported)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("built for a bare target, to be measured: cargo test -p iommu-tests --test text_size");
}
