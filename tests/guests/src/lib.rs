//! Small, hostile and odd plugins for tests: each file of `wat/` and `components/` as a component.
//!
//! A guest of `wat/` is the fields of a core module in text; `build.rs` adds a memory and an allocator and
//! wraps it into a component of the world that its first line names. The layouts in their comments
//! are those of the component model's canonical ABI for the types in `wit/`.

include!(concat!(env!("OUT_DIR"), "/guests.rs"));
