//! The kernels' own source, compiled for this machine, against the references in Rust.

// `cfg(test)` tells clippy that helpers, too, may unwrap.
#[cfg(test)]
mod attention;
#[cfg(test)]
mod emulation;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod sampling;
#[cfg(test)]
mod support;
#[cfg(test)]
mod weights;
