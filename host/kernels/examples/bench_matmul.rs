//! Measures [`matmul`]: weight bytes per second of a decode step, operations per second of a
//! prefill.
//!
//! `cargo run --release -p gapura-kernels --example bench_matmul -- [TYPE …]`
//!
//! Each product runs over copies of the matrix that together exceed the caches, as the layers
//! of a model do. Printed is the median of several rounds.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::time::Instant;

use gapura_kernels::{Activations, Matrix, WeightType, matmul};

const SHAPES: [(usize, usize); 3] = [(1536, 576), (2048, 640), (4096, 4096)];
const PREFILL_TOKENS: usize = 512;
/// More than the last cache of most machines holds for a core.
const WORKING_SET_BYTES: usize = 96 << 20;
const ROUNDS: usize = 5;

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

/// Seconds for one token, and for [`PREFILL_TOKENS`].
fn measure(weight_type: WeightType, rows: usize, cols: usize) -> (f64, f64) {
    let bytes = matrix_bytes(weight_type, rows, cols);
    let copies = WORKING_SET_BYTES.div_ceil(bytes);
    let data: Vec<u8> = (0..bytes * copies).map(|i| (i % 51) as u8).collect();
    let matrices: Vec<Matrix<'_>> = data
        .chunks_exact(bytes)
        .map(|data| Matrix::new(weight_type, rows, cols, data).expect("the size fits"))
        .collect();
    let time = |n: usize, matrices: &[Matrix<'_>]| {
        let x: Vec<f32> = (0..n * cols).map(|i| (i % 17) as f32 - 8.0).collect();
        let mut out = vec![0.0; n * rows];
        let mut seconds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                for &w in matrices {
                    let x = Activations::new(&x, n, cols).expect("the size fits");
                    matmul(&x, w, &mut out).expect("the shapes fit");
                }
                start.elapsed().as_secs_f64() / matrices.len() as f64
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    };
    (
        time(1, &matrices),
        time(PREFILL_TOKENS, &matrices[..matrices.len().min(4)]),
    )
}
