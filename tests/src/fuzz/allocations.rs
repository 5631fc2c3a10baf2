//! An allocator that tells how much was asked of it at once, so that a length that was believed too
//! early is seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts. A program that wants to know makes it its own:
/// `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    /// The most bytes that this thread has asked for at once.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Runs something; the most memory that it asked for at once on this thread. 0 where [`Counting`] is
/// not the program's allocator.
pub fn largest(run: impl FnOnce()) -> usize {
    LARGEST.set(0);
    run();
    LARGEST.get()
}

fn count(bytes: usize) {
    // A thread that ends has no more of these, and nobody asks it.
    let counted = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
    counted.unwrap_or_default();
}

// SAFETY: every call goes to the system's allocator as it came; what is counted beside that lives in
// a cell of the thread that has no destructor and takes no memory of its own.
#[expect(unsafe_code, reason = "an allocator cannot be written otherwise")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps what `alloc` asks for, and it is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: as above; `memory` came from the system's allocator, since all of it does.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
