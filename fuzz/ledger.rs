//! The books of the allocator, to which `fuzz/main.rs` and the hermetic tests hold every decoder.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use super::bodies::{Body, bound};

thread_local! {
    // Constant and without a destructor: an allocator may ask for it at any time.
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with what this thread holds written down.
struct Counting;

fn grown(by: usize) {
    let held = HELD.get().saturating_add(by);
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: every call goes to the system's allocator as it is, with the layout and pointer that the caller must have got from it; the
// counters beside it are plain numbers of this thread.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that this thread holds more than before, while it does something. Bytes.
pub fn most_held(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    work();
    MOST.get().saturating_sub(before)
}

/// Tries one decoder with `bytes`, which `what` names.
///
/// # Panics
/// If it has a defect, or takes more memory than its bound.
pub fn hold_to_bound((name, decoder): Body, what: &str, bytes: &[u8]) {
    let held = most_held(|| decoder(bytes));
    let most = bound(name, bytes.len());
    assert!(held <= most, "{name}, {what}: {held} bytes for {} of input, not more than {most}", bytes.len());
}
