//! Compiles the kernels of Gemma 2 ahead of time, for machines without NVRTC:
//!
//! ```text
//! prepare_kernels DIR MAJOR.MINOR...
//! ```
//! Needs NVRTC, and neither a GPU nor a driver.

use std::error::Error;

use gapura_kernels::device::{KernelCache, Precision, Specialization};

/// Gemma 2 (2B and 9B: heads of 256, two queries to a key).
const GEMMA_2: Specialization = Specialization {
    precision: Precision::Bf16,
    head_dim: 256,
    group: 2,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args
        .next()
        .ok_or("usage: prepare_kernels DIR MAJOR.MINOR...")?;
    let cache = KernelCache::new(folder.into());
    for capability in args {
        let (major, minor) = capability
            .split_once('.')
            .ok_or_else(|| format!("`{capability}` is no compute capability such as 9.0"))?;
        let files = cache.prepare((major.parse()?, minor.parse()?), GEMMA_2)?;
        #[expect(clippy::print_stdout, reason = "the result of the program")]
        {
            println!("{capability}: {} modules", files.len());
        }
    }
    Ok(())
}
