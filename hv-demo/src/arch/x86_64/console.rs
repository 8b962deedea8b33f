//! The consoles: COM1 for people, COM2 for machine-readable records. A port that is absent swallows what is written.

use core::fmt::{self, Write};
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

static TEXT: Mutex<Port> = Mutex::new(Port(None));
static RECORDS: Mutex<Port> = Mutex::new(Port(None));

/// A serial port; `None` where it is absent or not yet initialised.
struct Port(Option<Uart16550<PioBackend>>);

impl Port {
    /// Initialises the UART at `base`.
    ///
    /// # Safety
    ///
    /// `base` is where a legacy serial port lives, and nothing else drives it.
    unsafe fn open(base: u16) -> Self {
        // SAFETY: as the caller promises.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(base) }) else { return Self(None) };
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        Self(uart.init(config).is_ok().then_some(uart))
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(uart) = &mut self.0 {
            uart.send_bytes_exact(text.as_bytes());
        }
        Ok(())
    }
}

/// Opens both ports.
pub(super) fn init() {
    // SAFETY: COM1's port by convention, opened only here.
    *TEXT.lock() = unsafe { Port::open(0x3f8) };
    // SAFETY: COM2's port by convention, opened only here.
    *RECORDS.lock() = unsafe { Port::open(0x2f8) };
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
