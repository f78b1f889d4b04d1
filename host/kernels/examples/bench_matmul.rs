//! Measures [`matmul`]: weight bytes per second of a decode step, operations per second of a
//! prefill.
//!
//! `cargo run --release -p gapura-kernels --example bench_matmul -- [TYPE …]`
//!
//! Each product runs over copies of the matrix that together exceed the caches, as the layers
//! of a model do. Printed is the best of several rounds. With one thread, time is that of the
//! thread on a processor where the system tells it (Linux), so that other processes disturb
//! little; with two it is time on the wall.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::time::Instant;

use gapura_kernels::{Activations, Matrix, WeightType, matmul};

const SHAPES: [(usize, usize); 3] = [(1536, 576), (2048, 640), (4096, 4096)];
const PREFILL_TOKENS: usize = 512;
/// More than the last cache of most machines holds for a core.
const WORKING_SET_BYTES: usize = 96 << 20;
const ROUNDS: usize = 5;
/// Tokens decoded per round: the system's clock of a thread ticks in milliseconds.
const DECODE_TOKENS: usize = 4;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("type   rows x cols  threads  decode GB/s  decode us  prefill GOP/s");
    for weight_type in WeightType::ALL {
        if !wanted.is_empty() && !wanted.contains(&weight_type.to_string()) {
            continue;
        }
        for (rows, cols) in SHAPES {
            // Row lengths of small models are no multiple of a K-quant's 256.
            let cols = cols.next_multiple_of(weight_type.block_len());
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("threads can be had");
                let (decode, prefill) = pool.install(|| measure(weight_type, rows, cols));
                let bytes = matrix_bytes(weight_type, rows, cols) as f64;
                let operations = (2 * rows * cols * PREFILL_TOKENS) as f64;
                println!(
                    "{:6} {rows:4} x {cols:4}  {threads:7}  {:11.1}  {:9.1}  {:13.0}",
                    weight_type.to_string(),
                    bytes / decode / 1e9,
                    decode * 1e6,
                    operations / prefill / 1e9,
                );
            }
        }
    }
}

fn matrix_bytes(weight_type: WeightType, rows: usize, cols: usize) -> usize {
    rows * cols / weight_type.block_len() * weight_type.block_bytes()
}

/// Seconds that this thread has worked, or have passed where the system does not tell.
fn now(start: Instant, threads: usize) -> f64 {
    let on_processor = || {
        let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let nanoseconds: f64 = statistics.split(' ').next()?.parse().ok()?;
        Some(nanoseconds * 1e-9)
    };
    let own = if threads == 1 { on_processor() } else { None };
    own.unwrap_or_else(|| start.elapsed().as_secs_f64())
}

/// Seconds for one token, and for [`PREFILL_TOKENS`].
fn measure(weight_type: WeightType, rows: usize, cols: usize) -> (f64, f64) {
    let bytes = matrix_bytes(weight_type, rows, cols);
    let copies = WORKING_SET_BYTES.div_ceil(bytes);
    let data: Vec<u8> = (0..bytes * copies).map(|i| (i % 51) as u8).collect();
    let matrices: Vec<Matrix<'_>> = data
        .chunks_exact(bytes)
        .map(|data| Matrix::new(weight_type, rows, cols, data).expect("the size fits"))
        .collect();
    let start = Instant::now();
    let threads = rayon::current_num_threads();
    let best = |n: usize, repeats: usize, matrices: &[Matrix<'_>]| {
        let x: Vec<f32> = (0..n * cols).map(|i| (i % 17) as f32 - 8.0).collect();
        let mut out = vec![0.0; n * rows];
        let seconds = (0..ROUNDS).map(|_| {
            let before = now(start, threads);
            for &w in std::iter::repeat_n(matrices, repeats).flatten() {
                let x = Activations::new(&x, n, cols).expect("the size fits");
                matmul(&x, w, &mut out).expect("the shapes fit");
            }
            (now(start, threads) - before) / (repeats * matrices.len()) as f64
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    (
        best(1, DECODE_TOKENS, &matrices),
        best(PREFILL_TOKENS, 1, &matrices[..matrices.len().min(8)]),
    )
}
