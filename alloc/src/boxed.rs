//! `Box::new` that fails instead of aborting; stable Rust has none yet.

use alloc::alloc::{Layout, alloc};
use alloc::boxed::Box;

/// Puts `value` into a box; `None` where there is no memory.
pub fn try_box<T>(value: T) -> Option<Box<T>> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        // Takes no memory, so cannot fail.
        return Some(Box::new(value));
    }
    // SAFETY: the layout's size is not zero.
    let pointer = unsafe { alloc(layout) }.cast::<T>();
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the pointer is fresh from the global allocator with T's own layout, so it is valid for the write, and the
    // box may own it once it is initialised.
    unsafe {
        pointer.write(value);
        Some(Box::from_raw(pointer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_hold_their_value() {
        assert_eq!(*try_box([7u64; 9]).unwrap(), [7; 9]);
        assert_eq!(try_box(()), Some(Box::new(())));
        let whole: Box<dyn Fn() -> u32> = try_box(|| 5).unwrap();
        assert_eq!(whole(), 5);
    }
}
