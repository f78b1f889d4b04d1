//! Runs operations by their references and by their kernels, and compares what they wrote. The
//! kernels run on this machine's processor; with `GAPURA_TEST_DEVICE=cuda` on the first GPU, compiled
//! into the folder `GAPURA_KERNEL_CACHE`.

mod case;
mod gpu;
mod weights;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use gapura_kernels::device::{Device, HostDevice, Precision, Region, Specialization, emulation};
use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub(crate) use case::Case;
use gpu::Gpu;
pub(crate) use weights::matrix;

/// Memory of each device.
const CAPACITY_BYTES: u64 = 1 << 30;

/// The orders in which the emulator lets threads go on. A GPU has its own.
fn orders() -> &'static [u32] {
    if is_on_gpu() { &[0] } else { &[0, 1, 2] }
}

/// How far a kernel's value may be from its reference's: `absolute + relative * |reference|`.
/// Infinite values and those that are not numbers must have the same bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f32,
    pub(crate) relative: f32,
}

impl Tolerance {
    /// The same bits.
    pub(crate) const EXACT: Self = Self {
        absolute: 0.0,
        relative: 0.0,
    };

    /// For float32 that differ by the order of sums and the precision of functions.
    pub(crate) const F32: Self = Self {
        absolute: 1e-5,
        relative: 1e-5,
    };

    /// For activations that are rounded from such: of bf16, one place.
    pub(crate) fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self {
                absolute: 1e-5,
                relative: 1.0 / 128.0,
            },
        }
    }

    fn accepts(self, expected: f32, found: f32) -> bool {
        let distance = (expected - found).abs();
        let is_close = distance <= self.absolute + self.relative * expected.abs();
        expected.to_bits() == found.to_bits() || (self.relative > 0.0 && is_close)
    }

    /// Panics with the first value that is too far off.
    pub(crate) fn check(self, what: &str, expected: &[f32], found: &[f32]) {
        assert_eq!(expected.len(), found.len(), "{what}");
        let pairs = expected.iter().zip(found).enumerate();
        let mut wrong = pairs.filter(|(_, (expected, found))| !self.accepts(**expected, **found));
        if let Some((index, (expected, found))) = wrong.next() {
            let others = wrong.count();
            panic!(
                "{what}: {found} at {index} should be {expected} ({self:?}); {others} more are wrong"
            );
        }
    }
}

/// What `run` gives by the references, compared with what it gives by the kernels, threads in
/// several orders, which must not matter. Gives the kernels' (where there is no compiler, the
/// references').
pub(crate) fn compare(
    specialization: Specialization,
    name: &str,
    tolerance: Tolerance,
    mut run: impl FnMut(&mut dyn Device) -> Vec<f32>,
) -> Vec<f32> {
    let mut interpreter = HostDevice::interpreter(specialization, CAPACITY_BYTES).unwrap();
    let expected = run(&mut interpreter);
    let mut found: Option<Vec<f32>> = None;
    for &order in orders() {
        let Some(mut device) = kernels(specialization, order) else {
            return expected;
        };
        let results = run(&mut *device);
        match &found {
            None => tolerance.check(&format!("{name} {specialization:?}"), &expected, &results),
            Some(first) => Tolerance::EXACT.check(
                &format!("{name}, threads in order {order}"),
                first,
                &results,
            ),
        }
        found.get_or_insert(results);
    }
    found.unwrap_or(expected)
}

fn is_on_gpu() -> bool {
    std::env::var_os("GAPURA_TEST_DEVICE").is_some_and(|device| device == "cuda")
}

/// A device that runs the kernels, threads in an order of their own or another. What is allocated
/// of it is freed when it is dropped. `None`, and a line that says so, where there is no compiler.
pub(crate) fn kernels(specialization: Specialization, order: u32) -> Option<Box<dyn Device>> {
    if is_on_gpu() {
        return Some(Box::new(Gpu::take(specialization)));
    }
    let library = library(specialization)?;
    let mut device = HostDevice::emulator(specialization, CAPACITY_BYTES, &library).unwrap();
    device.shuffle_threads(order);
    Some(Box::new(device))
}

/// The kernels' library, built once. `GAPURA_KERNEL_SOURCES` names a folder with other sources,
/// such as some with a mistake.
fn library(specialization: Specialization) -> Option<PathBuf> {
    static BUILT: Mutex<Option<HashMap<Specialization, PathBuf>>> = Mutex::new(None);
    if !emulation::has_compiler() {
        eprintln!("SKIPPED: there is no C++ compiler, so the kernels were not tested");
        return None;
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(library) = built.get(&specialization) {
        return Some(library.clone());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let result = match std::env::var_os("GAPURA_KERNEL_SOURCES") {
        None => emulation::build(specialization, &folder),
        Some(sources) => {
            emulation::build_files(&files_in(Path::new(&sources)), specialization, &folder)
        }
    };
    let library = result.unwrap_or_else(|error| panic!("{error}"));
    built.insert(specialization, library.clone());
    Some(library)
}

/// The kernels' sources as they are in `folder`.
pub(crate) fn files_in(folder: &Path) -> Vec<(String, String)> {
    let read = |name: &str| {
        (
            name.to_owned(),
            fs::read_to_string(folder.join(name)).unwrap(),
        )
    };
    emulation::source_names().into_iter().map(read).collect()
}

pub(crate) fn allocate(device: &mut dyn Device, bytes: usize) -> Region {
    device.allocate(bytes as u64).unwrap()
}

pub(crate) fn upload(device: &mut dyn Device, bytes: &[u8]) -> Region {
    let region = allocate(device, bytes.len());
    device.write(region, bytes).unwrap();
    region
}

pub(crate) fn read_bytes(device: &mut dyn Device, region: Region) -> Vec<u8> {
    let readback = device.read_back(region).unwrap();
    device.wait(readback).unwrap()
}

pub(crate) fn read_u32s(device: &mut dyn Device, region: Region) -> Vec<u32> {
    let bytes = read_bytes(device, region);
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect()
}

pub(crate) fn read_f32s(device: &mut dyn Device, region: Region) -> Vec<f32> {
    read_acts(device, Precision::F32, region)
}

pub(crate) fn read_acts(device: &mut dyn Device, precision: Precision, region: Region) -> Vec<f32> {
    act_values(precision, &read_bytes(device, region))
}

pub(crate) fn u32_bytes(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    act_bytes(Precision::F32, values)
}

/// Values as a device of that precision has them.
pub(crate) fn act_bytes(precision: Precision, values: &[f32]) -> Vec<u8> {
    match precision {
        Precision::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        Precision::Bf16 => {
            let rounded = values.iter().map(|value| bf16::from_f32(*value));
            rounded.flat_map(bf16::to_le_bytes).collect()
        }
    }
}

fn act_values(precision: Precision, bytes: &[u8]) -> Vec<f32> {
    match precision {
        Precision::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
        Precision::Bf16 => {
            let values = bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes));
            values.map(bf16::to_f32).collect()
        }
    }
}

pub(crate) fn bf16(head_dim: u32, group: u32) -> Specialization {
    specialization(Precision::Bf16, head_dim, group)
}

pub(crate) fn f32(head_dim: u32, group: u32) -> Specialization {
    specialization(Precision::F32, head_dim, group)
}

fn specialization(precision: Precision, head_dim: u32, group: u32) -> Specialization {
    Specialization {
        precision,
        head_dim,
        group,
    }
}

/// For operations that heads do not matter to: both precisions.
pub(crate) fn both_precisions() -> [Specialization; 2] {
    [bf16(256, 2), f32(256, 2)]
}

/// For attention: heads and groups of models, and odd ones.
pub(crate) fn specializations() -> [Specialization; 6] {
    [
        bf16(256, 2),
        f32(256, 2),
        bf16(64, 3),
        f32(16, 1),
        bf16(128, 4),
        bf16(16, 8),
    ]
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// About a normal distribution: sums of twelve.
pub(crate) fn normal(rng: &mut StdRng, count: usize, std: f32) -> Vec<f32> {
    let mut value = || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f32>() * std;
    (0..count).map(|_| value()).collect()
}

/// Values around 0, with outliers as activations have them.
pub(crate) fn randoms(rng: &mut StdRng, count: usize) -> Vec<f32> {
    let mut values = normal(rng, count, 1.0);
    for value in values.iter_mut().filter(|_| rng.random_range(0..64) == 0) {
        *value *= 4.0;
    }
    values
}
