//! The logging facade of all library crates: [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info),
//! [`debug!`](crate::debug).
//!
//! Features `log` and `defmt` choose the back end; without either a message costs nothing. Where both are on, defmt
//! wins. Arguments are integers, booleans and strings, with `{}` and `{:#x}` only, which both back ends understand.

#[doc(hidden)]
pub mod backend {
    #[cfg(feature = "defmt")]
    pub use ::defmt;
    #[cfg(feature = "log")]
    pub use ::log;
}

macro_rules! level {
    ($(#[$doc:meta])* $level:ident, $d:tt) => {
        $(#[$doc])*
        #[cfg(feature = "defmt")]
        #[macro_export]
        macro_rules! $level {
            ($d($d arg:tt)*) => {{
                // The macros of defmt name their crate as `defmt`, which a caller need not depend on.
                use $crate::__log::defmt;
                defmt::$level!($d($d arg)*)
            }};
        }

        $(#[$doc])*
        #[cfg(all(feature = "log", not(feature = "defmt")))]
        #[macro_export]
        macro_rules! $level {
            ($d($d arg:tt)*) => { $crate::__log::log::$level!($d($d arg)*) };
        }

        $(#[$doc])*
        #[cfg(not(any(feature = "log", feature = "defmt")))]
        #[macro_export]
        macro_rules! $level {
            // Type-checks the message without formatting or evaluating anything.
            ($d($d arg:tt)*) => { if false { let _ = ::core::format_args!($d($d arg)*); } };
        }
    };
}

level!(
    /// Logs something that endangers isolation or stops a unit.
    error, $);
level!(
    /// Logs something that was recovered from.
    warn, $);
level!(
    /// Logs a step of bring-up.
    info, $);
level!(
    /// Logs detail for whoever brings up a board.
    debug, $);
