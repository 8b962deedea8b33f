//! The two consoles as macros: text for people, records for the witness. The ports are [`crate::arch::console`]'s.

/// Prints text for people.
macro_rules! print {
    ($($arg:tt)*) => { $crate::arch::console::write_text(format_args!($($arg)*)) };
}

/// Prints a line for people.
macro_rules! println {
    () => { print!("\n") };
    ($($arg:tt)*) => { print!("{}\n", format_args!($($arg)*)) };
}

/// Writes one record, a line of JSON without its line end, for the witness.
macro_rules! record {
    ($($arg:tt)*) => { $crate::arch::console::write_record(format_args!("{}\n", format_args!($($arg)*))) };
}
