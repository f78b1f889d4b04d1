//! The runtime with real and hostile guests: every limit has one that hits it.

mod cache;
mod chains;
mod deadlines;
mod limits;
mod loading;
mod respond;
mod support;
mod swapping;
mod validate;
mod watching;
