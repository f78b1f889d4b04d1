//! What the allocator keeps although nobody uses it.

/// Gives freed memory back to the operating system. Loading a model frees much at once (a
/// vocabulary of 262,144 tokens is sorted and joined on the way), which the allocator would
/// otherwise keep for the life of the process. Does nothing where the C library has no way.
pub fn release_unused() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes any padding, may be called from any thread at any time, and
    // touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
