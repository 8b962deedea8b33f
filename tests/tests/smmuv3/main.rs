//! The SMMUv3 driver against the device model: what the specification asks for, what others got wrong, and everything at
//! random.

mod holes;
mod random;
mod rows;
mod transitions;
