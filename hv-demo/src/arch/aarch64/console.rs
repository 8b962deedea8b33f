//! The consoles, PL011s: the first for people, the second for machine-readable records. A port that is absent swallows
//! what is written.

use super::paging;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use core::fmt::{self, Write};
use iommu_core::addr::PhysAddr;
use spin::Mutex;

static TEXT: Mutex<Port> = Mutex::new(Port(None));
static RECORDS: Mutex<Port> = Mutex::new(Port(None));

/// A serial port; `None` where it is absent or not yet initialised.
struct Port(Option<Uart<'static>>);

impl Port {
    /// Takes the PL011 at `base` over as the loader left it; QEMU's sends at once, whatever its line speed.
    ///
    /// # Safety
    ///
    /// `base` is where a PL011 lives, and nothing else drives it.
    unsafe fn open(base: PhysAddr) -> Self {
        let Ok(registers) = paging::map_device(base, size_of::<PL011Registers>()) else { return Self(None) };
        // SAFETY: the registers have just been mapped, for good and as device memory; the rest is as the caller
        // promises.
        Self(Some(Uart::new(unsafe { UniqueMmioPointer::new(registers.cast()) })))
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(uart) = &mut self.0 {
            uart.write_str(text)?;
        }
        Ok(())
    }
}

/// Opens the ports at these addresses, as far as there are any.
pub(super) fn init([text, records]: [Option<PhysAddr>; 2]) {
    for (port, base) in [(&TEXT, text), (&RECORDS, records)] {
        if let Some(base) = base {
            // SAFETY: the devicetree says that a PL011 is there, another one for each port; they are opened only here.
            *port.lock() = unsafe { Port::open(base) };
        }
    }
}

/// Writes text for people.
pub fn write_text(text: fmt::Arguments<'_>) {
    // A port reports no errors.
    let _ = TEXT.lock().write_fmt(text);
}

/// Writes a record for the witness.
pub fn write_record(record: fmt::Arguments<'_>) {
    let _ = RECORDS.lock().write_fmt(record);
}

/// Breaks the locks, for a panic or exception that may have come out of the middle of a write.
pub fn seize() {
    for port in [&TEXT, &RECORDS] {
        if port.is_locked() {
            // SAFETY: there is one CPU, and the holder is what was interrupted: it will never run again.
            unsafe { port.force_unlock() };
        }
    }
}
