//! The kernels' sources, as they are in `host/kernels/cuda`.

/// A source file: its name and its text.
pub(super) type SourceFile = (&'static str, &'static str);

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../cuda/", $name)))),*]
    };
}

/// What modules include.
const HEADERS: &[SourceFile] = files![
    "device.cuh",
    "ops.cuh",
    "rows.cuh",
    "select.cuh",
    "weights.cuh",
];

/// What only this machine's compiler needs.
const EMULATION: &[SourceFile] = files!["emulation.h", "emulation.cpp"];

/// A translation unit each; `Launch::module` is the name without `.cu`.
const MODULES: &[SourceFile] = files![
    "add_norm.cu",
    "attend_decode.cu",
    "attend_plain.cu",
    "attend_prefill.cu",
    "dequantize.cu",
    "elementwise.cu",
    "embed.cu",
    "gemv.cu",
    "probe.cu",
    "quantize.cu",
    "rope_kv.cu",
    "sample.cu",
];

/// The modules: translation units, each `<Launch::module>.cu`.
#[must_use]
pub(super) fn modules() -> &'static [SourceFile] {
    MODULES
}

/// The headers that modules include, by the names by which they do.
#[must_use]
pub(super) fn headers() -> &'static [SourceFile] {
    HEADERS
}

/// Modules, headers and what emulation adds to them.
#[must_use]
pub(super) fn files() -> Vec<SourceFile> {
    [MODULES, HEADERS, EMULATION].concat()
}
