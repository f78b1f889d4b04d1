//! Real, tiny models through the engine's own batched, paged path.

// `cfg(test)` tells clippy that helpers, too, may unwrap.
#[cfg(test)]
mod constrained;
#[cfg(test)]
mod device;
#[cfg(test)]
mod exactness;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod quantized;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod sampling;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tokenizers;
