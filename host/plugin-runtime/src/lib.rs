//! Loads, limits, runs and swaps plugins: components of the world in `wit/`. It knows neither
//! HTTP nor tensors.

mod types;

pub use types::*;
