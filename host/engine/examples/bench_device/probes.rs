//! What the card can do that day: the denominators of everything else.

use gapura_engine::{
    DeviceOptions,
    device::{FillRandom, Gemm, Op, ReadProbe},
};
use serde_json::json;

use crate::{Bench, Outcome};

/// Repetitions of a probe, and how often it is tried; the best counts.
const TIMES: u32 = 20;
const TRIES: usize = 5;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let options = DeviceOptions::default();
    let mut device = bench.open(bench.specialization(&options)?)?;
    let properties = device.properties().clone();

    let bytes = bench.sized(4 << 30, 1 << 20) as u64;
    let x = device.allocate(bytes)?;
    let blocks = properties.num_multiprocessors * 16;
    let out = device.allocate(4 * u64::from(blocks))?;
    let read = Op::ReadProbe(ReadProbe {
        x: x.address,
        out: out.address,
        bytes,
        blocks,
        reserved: 0,
    });
    device.run(&[read])?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        best = best.min(device.time(&[read], TIMES)? / f64::from(TIMES));
    }
    let read_bandwidth = bytes as f64 / best;
    device.free(x)?;
    device.free(out)?;

    let size = bench.sized(8192, 64);
    let matrix = 2 * (size * size) as u64;
    let (a, b, c) = (
        device.allocate(matrix)?,
        device.allocate(matrix)?,
        device.allocate(matrix)?,
    );
    // Zeros would draw less power and be multiplied faster than any weights.
    for (seed, region) in [(1, a), (2, b)] {
        device.run(&[Op::FillRandom(FillRandom {
            out: region.address,
            count: (size * size) as u64,
            seed,
            std: 1.0,
            reserved: 0,
        })])?;
    }
    let gemm = Op::Gemm(Gemm {
        x: a.address,
        w: b.address,
        out: c.address,
        n: size as u32,
        m: size as u32,
        k: size as u32,
        x_stride: size as u32,
        w_stride: size as u32,
        out_stride: size as u32,
        batch: 1,
        w_shared: 1,
        ..Gemm::default()
    });
    device.run(&[gemm])?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        best = best.min(device.time(&[gemm], TIMES)? / f64::from(TIMES));
    }
    let matrix_rate = 2.0 * (size as f64).powi(3) / best;

    bench.read_bandwidth = Some(read_bandwidth);
    bench.matrix_rate = Some(matrix_rate);
    bench.report(
        "probes",
        &json!({
            "device": properties.name,
            "compute_capability": properties.compute_capability,
            "multiprocessors": properties.num_multiprocessors,
            "total_bytes": properties.total_bytes,
            "read_bytes_per_s": read_bandwidth,
            "bf16_flop_per_s": matrix_rate,
        }),
    );
    Ok(())
}
