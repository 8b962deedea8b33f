//! A value with several owners, counted, whose making can fail.

use crate::{OutOfMemory, try_box};
use alloc::boxed::Box;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// More owners than any machine has; past it the count would wrap in the end.
const MOST_OWNERS: usize = isize::MAX as usize;

struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

/// A pointer to a value that lives as long as any of its owners, on whichever CPU they are.
///
/// The same as the standard library's `Arc` without weak pointers, and [`Shared::try_new`] fails where there is no memory.
pub struct Shared<T> {
    counted: NonNull<Counted<T>>,
    /// Whoever drops the last owner drops the value.
    owns: PhantomData<Counted<T>>,
}

// SAFETY: an owner on another CPU gets at the value by reference, and may be the one to drop it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above: by a reference to an owner another CPU can make an owner of its own.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The first owner of `value`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the value is dropped.
    pub fn try_new(value: T) -> Result<Self, OutOfMemory> {
        let counted = try_box(Counted { owners: AtomicUsize::new(1), value }).ok_or(OutOfMemory)?;
        Ok(Self { counted: NonNull::from(Box::leak(counted)), owns: PhantomData })
    }

    /// Whether both own the same value.
    pub fn same(one: &Self, other: &Self) -> bool {
        one.counted == other.counted
    }

    /// How many own the value. Other CPUs may change that at any time, unless it is one: then it is this owner alone.
    pub fn owners(this: &Self) -> usize {
        this.counted().owners.load(Ordering::Acquire)
    }

    /// The value, where this is its last owner; otherwise one owner fewer.
    pub fn into_inner(this: Self) -> Option<T> {
        let counted = this.counted;
        core::mem::forget(this);
        // SAFETY: `this` was an owner, and is forgotten: its share is given up here and nowhere else.
        unsafe { release(counted) }.map(|counted| counted.value)
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: the value lives as long as any owner, and this is one.
        unsafe { self.counted.as_ref() }
    }
}

/// Gives one owner's share up; the last one gets the box back.
///
/// # Safety
///
/// The caller has a share and does not use it afterwards.
unsafe fn release<T>(counted: NonNull<Counted<T>>) -> Option<Box<Counted<T>>> {
    // SAFETY: the caller's share keeps the value alive up to here.
    if unsafe { counted.as_ref() }.owners.fetch_sub(1, Ordering::Release) != 1 {
        return None;
    }
    // Everything that other owners did comes before what the last one does.
    fence(Ordering::Acquire);
    // SAFETY: it came from a box, and nobody else has a share any more.
    Some(unsafe { Box::from_raw(counted.as_ptr()) })
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // As for `Arc`: an owner exists, so nothing has to be ordered before one more does.
        let owners = self.counted().owners.fetch_add(1, Ordering::Relaxed);
        // A count that wraps would free a value in use. It takes 2^63 forgotten clones, which no machine lives to see.
        assert!(owners < MOST_OWNERS, "too many owners");
        Self { counted: self.counted, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the share is this owner's, which is gone afterwards.
        drop(unsafe { release(self.counted) });
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::vec::Vec;

    struct Counts<'a>(&'a AtomicUsize);

    impl Drop for Counts<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_last_owner_drops_the_value_once() {
        let drops = AtomicUsize::new(0);
        let one = Shared::try_new(Counts(&drops)).unwrap();
        let other = one.clone();
        assert!(Shared::same(&one, &other) && Shared::owners(&one) == 2);
        drop(one);
        assert_eq!((drops.load(Ordering::Relaxed), Shared::owners(&other)), (0, 1));
        drop(other);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn only_the_last_owner_gets_the_value() {
        let drops = AtomicUsize::new(0);
        let one = Shared::try_new(Counts(&drops)).unwrap();
        let other = one.clone();
        assert!(Shared::into_inner(one).is_none());
        let value = Shared::into_inner(other).unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        drop(value);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn owners_come_and_go_on_several_cpus() {
        let drops = AtomicUsize::new(0);
        let one = Shared::try_new(Counts(&drops)).unwrap();
        std::thread::scope(|scope| {
            let owners: Vec<_> = (0..4).map(|_| one.clone()).collect();
            for owner in owners {
                scope.spawn(move || (0..1000).for_each(|_| drop(owner.clone())));
            }
        });
        assert_eq!((Shared::owners(&one), drops.load(Ordering::Relaxed)), (1, 0));
        drop(one);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }
}
