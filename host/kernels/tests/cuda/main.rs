//! [`CudaDevice`] without a GPU: on stand-ins for NVIDIA's libraries that are as lazy and as strict
//! as they may be. What kernels compute is shown elsewhere; here it is that the right bytes are
//! at the right place at the right time, that products are what they should be, and that whatever
//! is missing or fails is an error with a reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kernels;
mod memory;
mod missing;
mod products;
mod stand_in;
mod work;

use gapura_kernels::device::{
    CudaDevice, Device, DeviceError, Gemm, Op, Precision, Region, SoftCap, Specialization,
};
use stand_in::{ALL, Place, Scene, act};

const BF16: Specialization = Specialization {
    precision: Precision::Bf16,
    head_dim: 256,
    group: 2,
};

const F32: Specialization = Specialization {
    precision: Precision::F32,
    ..BF16
};

fn open(place: &Place) -> CudaDevice {
    CudaDevice::open(0, BF16, &place.cache()).unwrap()
}

/// The error of a device that cannot be had.
fn refused(place: &Place) -> DeviceError {
    match CudaDevice::open(0, BF16, &place.cache()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// Runs `body` where everything is there.
fn with_all(test: &str, settings: &[(&str, &str)], body: impl FnOnce(&Place)) {
    let scene = Scene {
        libraries: ALL,
        settings,
    };
    act(test, &[scene], |_, place| body(place));
}

/// Some bytes that tell their places.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let byte = |i: u64| {
        (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(seed * 77)
            >> 40) as u8
    };
    (0..len as u64).map(byte).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// `x = 2 x + plus`, to the stand-in.
fn double(x: Region, plus: f32) -> Op {
    Op::SoftCap(SoftCap {
        x: x.address,
        count: x.bytes / 4,
        cap: plus,
        reserved: 0,
    })
}

fn read(device: &mut impl Device, from: Region) -> Vec<u8> {
    let readback = device.read_back(from).unwrap();
    device.wait(readback).unwrap()
}

/// A product's parameters, without addresses.
fn product([n, m, k]: [u32; 3], batch: u32, w_shared: u32) -> Gemm {
    Gemm {
        n,
        m,
        k,
        x_stride: k,
        w_stride: k,
        out_stride: m,
        batch,
        w_shared,
        x_batch_stride: u64::from(n * k),
        w_batch_stride: u64::from(m * k),
        out_batch_stride: u64::from(n * m),
        ..Gemm::default()
    }
}
