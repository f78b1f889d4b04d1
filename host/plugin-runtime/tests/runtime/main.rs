//! The runtime with real and hostile guests: every limit has one that hits it.

mod cache;
mod calls;
mod chains;
mod deadlines;
mod failures;
mod http;
mod lent;
mod limits;
mod loading;
mod model;
mod observe;
mod respond;
mod reuse;
mod support;
mod swapping;
mod validate;
mod watching;
