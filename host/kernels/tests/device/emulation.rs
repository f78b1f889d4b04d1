//! The emulation itself: what is wrong on a GPU must not pass here.

use std::path::Path;

use gapura_kernels::device::{
    Device, DeviceError, HostDevice, Op, Precision, SoftCap, Specialization, emulation,
};

use crate::support::files_in;

const FOR: Specialization = Specialization {
    precision: Precision::Bf16,
    head_dim: 64,
    group: 2,
};

/// Runs `body` as the kernel of `SoftCap`, on `count` float32 that are 0, with threads in the given
/// order; gives what it left there.
fn run(body: &str, count: usize, order: u32) -> Option<Result<Vec<f32>, DeviceError>> {
    if !emulation::has_compiler() {
        eprintln!("SKIPPED: there is no C++ compiler, so the emulation was not tested");
        return None;
    }
    let source = format!("#include \"ops.cuh\"\nKERNEL(soft_cap, SoftCap, 256) {{ {body} }}\n");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let files: Vec<_> = files_in(&folder)
        .into_iter()
        .filter(|(name, _)| !name.ends_with(".cu"))
        .chain([("kernel.cu".to_owned(), source)])
        .collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation");
    let library =
        emulation::build_files(&files, FOR, &folder).unwrap_or_else(|error| panic!("{error}"));
    let mut device = HostDevice::emulator(FOR, 1 << 20, &library).unwrap();
    device.shuffle_threads(order);
    let x = device.allocate(4 * count as u64).unwrap();
    device.write(x, &vec![0; 4 * count]).unwrap();
    let params = SoftCap {
        x: x.address,
        count: count as u64,
        cap: 1.0,
        reserved: 0,
    };
    Some(device.run(&[Op::SoftCap(params)]).map(|()| {
        let readback = device.read_back(x).unwrap();
        let bytes = device.wait(readback).unwrap();
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }))
}

fn assert_fails(body: &str, message: &str) {
    if let Some(result) = run(body, 256, 0) {
        let error = result.expect_err("must fail").to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn threads_that_end_before_a_barrier_are_an_error() {
    assert_fails(
        "if (threadIdx.x < 7) return; __syncthreads();",
        "waits at __syncthreads for thread 0, which has ended",
    );
}

#[test]
fn lanes_that_are_missing_from_a_shuffle_are_an_error() {
    assert_fails(
        "if (threadIdx.x == 5) return; p.x[threadIdx.x] = warp_sum(1.0f);",
        "waits at __shfl_xor_sync for thread 5, which has ended",
    );
}

#[test]
fn a_mask_that_leaves_out_its_caller_is_an_error() {
    assert_fails("__syncwarp(1u);", "leaves out lane 1");
}

#[test]
fn warps_at_different_meetings_are_an_error() {
    assert_fails(
        "if (threadIdx.x % 2 == 0) __syncwarp(); else __ballot_sync(ALL_LANES, 1);",
        "threads diverge",
    );
}

#[test]
fn an_access_that_is_not_aligned_is_an_error() {
    assert_fails("load16(p.x + 1);", "is not aligned");
}

#[test]
fn writing_past_the_end_is_an_error() {
    assert_fails(
        "p.x[256 + threadIdx.x / 64] = 1.0f;",
        "not within one allocation",
    );
}

#[test]
fn a_missing_barrier_shows() {
    let body = |barrier: &str| {
        format!(
            "__shared__ float shared[256]; shared[threadIdx.x] = float(threadIdx.x); {barrier} \
             p.x[threadIdx.x] = shared[255 - threadIdx.x];"
        )
    };
    let expected: Vec<f32> = (0..=255_u8).rev().map(f32::from).collect();
    for order in [0, 1, 2] {
        let (Some(with), Some(without)) = (
            run(&body("__syncthreads();"), 256, order),
            run(&body(""), 256, order),
        ) else {
            return;
        };
        assert_eq!(with.unwrap(), expected);
        assert_ne!(without.unwrap(), expected);
    }
}

#[test]
fn a_copy_is_there_only_when_it_was_waited_for() {
    let body = |wait: &str| {
        format!(
            "__shared__ __align__(16) float shared[1024]; float* mine = shared + 4 * threadIdx.x; \
             p.x[0] = 0.5f; copy_async_16(mine, p.x); copy_async_commit(); {wait} \
             p.x[threadIdx.x] = mine[0]; copy_async_wait<0>();"
        )
    };
    let (Some(with), Some(without)) = (
        run(&body("copy_async_wait<0>();"), 256, 0),
        run(&body(""), 256, 0),
    ) else {
        return;
    };
    assert_eq!(with.unwrap()[1], 0.5);
    assert!(without.unwrap()[1].is_nan());
}

#[test]
fn shuffles_reach_the_lanes_that_they_name() {
    let body = "float lane = float(threadIdx.x % 32); float* x = p.x + 5 * threadIdx.x; \
                x[0] = __shfl_sync(ALL_LANES, lane, 9); \
                x[1] = __shfl_up_sync(ALL_LANES, lane, 3); \
                x[2] = __shfl_down_sync(ALL_LANES, lane, 3); \
                x[3] = __shfl_xor_sync(ALL_LANES, lane, 5, 8); \
                x[4] = float(__popc(__ballot_sync(ALL_LANES, lane < 11.0f)));";
    let Some(found) = run(body, 5 * 256, 1) else {
        return;
    };
    for (thread, found) in found.unwrap().chunks_exact(5).enumerate() {
        let lane = thread % 32;
        let up = if lane < 3 { lane } else { lane - 3 };
        let down = if lane + 3 > 31 { lane } else { lane + 3 };
        assert_eq!(found, [9, up, down, lane ^ 5, 11].map(|lane| lane as f32));
    }
}

/// Row major a and b, and their product, through the fragments that the PTX manual describes.
#[test]
fn tensor_cores_multiply() {
    let body = "if (threadIdx.x >= 32) return; \
                u32 g = threadIdx.x / 4, t = threadIdx.x % 4; \
                auto a = [](u32 row, u32 column) { return float(row) - 3.0f * float(column % 5); }; \
                auto b = [](u32 row, u32 column) { return float(row % 7) + 2.0f * float(column); }; \
                u32 left[4], right[2]; float d[4]; \
                for (u32 i = 0; i < 4; i++) { u32 row = g + i % 2 * 8, column = 2 * t + i / 2 * 8; \
                  left[i] = pack_bf16(a(row, column), a(row, column + 1)); } \
                for (u32 i = 0; i < 2; i++) { u32 row = 2 * t + 8 * i; \
                  right[i] = pack_bf16(b(row, g), b(row + 1, g)); } \
                for (u32 i = 0; i < 4; i++) d[i] = 1.0f; \
                mma_bf16(d, left, right); \
                for (u32 i = 0; i < 4; i++) p.x[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];";
    let Some(found) = run(body, 128, 2) else {
        return;
    };
    let found = found.unwrap();
    for row in 0..16 {
        for column in 0..8 {
            let product = |k: i32| (row - 3 * (k % 5)) * (k % 7 + 2 * column);
            let expected = 1 + (0..16).map(product).sum::<i32>();
            assert_eq!(found[(row * 8 + column) as usize], expected as f32);
        }
    }
}

#[test]
fn matrices_are_loaded_by_rows_and_by_columns() {
    let body = |function: &str| {
        format!(
            "__shared__ __align__(16) u16 shared[4][8][8]; if (threadIdx.x >= 32) return; u32 lane = threadIdx.x; \
             for (u32 i = 0; i < 8; i++) shared[lane / 8][lane % 8][i] = u16(lane / 8 * 100 + lane % 8 * 10 + i); \
             __syncwarp(); u32 out[4]; {function}(out, shared[lane / 8][lane % 8]); \
             for (u32 i = 0; i < 8; i++) p.x[lane * 8 + i] = float(out[i / 2] >> 16 * (i % 2) & 0xffffu);"
        )
    };
    for (function, row_step, column_step) in [("ldmatrix_x4", 10, 1), ("ldmatrix_x4_trans", 1, 10)]
    {
        let Some(found) = run(&body(function), 256, 0) else {
            return;
        };
        for (index, found) in found.unwrap().into_iter().enumerate() {
            let (lane, i) = (index / 8, index % 8);
            let expected =
                i / 2 * 100 + lane / 4 * row_step + (2 * (lane % 4) + i % 2) * column_step;
            assert_eq!(found, expected as f32, "{function}, lane {lane}, value {i}");
        }
    }
}
