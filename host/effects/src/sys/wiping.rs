//! The system's allocator, which wipes what is given back.

use std::alloc::{GlobalAlloc, Layout, System};

/// See the head of this file. Growing moves to a new place (the trait's own way), so that the former one is wiped too.
#[derive(Debug, Clone, Copy, Default)]
pub struct WipingAllocator;

// SAFETY: every call goes to the system's allocator with the layout it was given; before memory is given back, exactly that memory is
// written, which is still the caller's.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the trait.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the trait.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` has `layout.size()` bytes that are the caller's until this call returns. explicit_bzero(3) is never left out
        // by a compiler that knows that nobody reads it.
        unsafe {
            libc::explicit_bzero(place.cast(), layout.size());
            System.dealloc(place, layout);
        }
    }
}
