//! Failures on purpose, by `crash=KIND` on the command line: each must end the boot as a failure that says what it was.

use crate::memory;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ptr;

/// Does what `kind` says. Returns only from `heap`, which the hypervisor is to survive.
pub fn on_purpose(kind: &str) {
    println!("crash on purpose: {kind}");
    let image = memory::image_range();
    let text = memory::sections()[0].0.start;
    match kind {
        "panic" => panic!("on purpose"),
        "page-0" => write(0x10),
        "unmapped" => write(0x7f00_0000_0000),
        "text" => write(text),
        "read-only" => write(memory::sections()[1].0.start),
        "data-as-code" => run(memory::sections()[2].0.start),
        "memory-as-code" => run(image.end),
        "stack" => {
            overflow(0);
        }
        "heap" => {
            let mut all = Vec::<u8>::new();
            assert!(all.try_reserve(1 << 40).is_err(), "the heap is larger than memory");
            let taken = core::iter::from_fn(|| {
                let mut part = Vec::<u8>::new();
                part.try_reserve_exact(1 << 20).ok().map(|()| part)
            });
            // The list itself must not need what has just run out.
            let mut parts = Vec::with_capacity(1024);
            parts.extend(taken);
            let frame = memory::alloc_frames(0, 64).expect("frames do not need the heap");
            // SAFETY: just allocated, and not used.
            unsafe { memory::free_frames(frame, 0) };
            println!("the heap ended after {} MiB; frames are still there", parts.len());
            drop(parts);
            assert!(all.try_reserve(32 << 20).is_ok(), "the heap does not get its memory back");
        }
        "abort" => drop(black_box(Vec::<u8>::with_capacity(1 << 40))),
        _ => panic!("no such crash: {kind}"),
    }
}

/// Writes a byte where none may be written.
fn write(address: u64) {
    // SAFETY: it is not safe, but it does not get so far: the page tables forbid it.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(address as usize).write_volatile(0) };
}

/// Runs what is not code.
fn run(address: u64) {
    // SAFETY: it is not safe, but it does not get so far: the page tables forbid it.
    let function = unsafe { core::mem::transmute::<usize, extern "C" fn()>(address as usize) };
    function();
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    let local = black_box([depth; 64]);
    overflow(depth + 1) + local[3]
}
