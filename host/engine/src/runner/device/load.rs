//! From files to the device: what is copied, what is rounded on the way, and what is refused.

use std::sync::atomic::Ordering::Relaxed;

use gapura_kernels::{
    WeightType,
    device::{
        Address, CountNonFinite, Device, DeviceError, Fill, FillRandom, MatrixFormat, Op,
        Precision, Quantize, Region, Transfer,
    },
};

use super::weights::{DeviceModel, PlannedMatrix, WeightPlan};
use crate::error::LoadError;

/// Bytes of a matrix that are quantized at a time.
const QUANTIZE_BYTES: usize = 64 << 20;

/// What matrices hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values {
    /// What the files say.
    Files,
    /// Random numbers: as good for measuring, and nothing has to be read.
    Random { seed: u64 },
}

/// Of random values: what models are initialized with.
const RANDOM_STD: f32 = 0.02;

impl WeightPlan<'_> {
    /// Allocates the region, fills it and gives `model` its addresses.
    ///
    /// # Errors
    /// [`LoadError::Device`]; [`LoadError::NotFinite`] names the first tensor with a value that is
    /// not a number.
    pub(super) fn load(
        self,
        model: &mut DeviceModel,
        device: &mut dyn Device,
        values: Values,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), LoadError> {
        let region = device.allocate(self.bytes())?;
        model.region = region;
        model.move_by(region.address.0);
        for (values, offset) in &self.vectors {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            device.write(region.slice(*offset, bytes.len() as u64), &bytes)?;
        }
        let counters = device.allocate(4 * self.matrices.len().max(1) as u64)?;
        device.write(counters, &vec![0; counters.bytes as usize])?;
        let total = self
            .matrices
            .iter()
            .map(|m| m.weight.bytes().len() as u64)
            .sum();
        let mut done = 0;
        let mut plain: Vec<&PlannedMatrix<'_>> = Vec::new();
        for (index, matrix) in self.matrices.iter().enumerate() {
            let counter = counters.slice(4 * index as u64, 4);
            match matrix.format {
                MatrixFormat::W8 | MatrixFormat::W4 => {
                    self.quantize(matrix, region, counter, device, values)?;
                    done += matrix.weight.bytes().len() as u64;
                    progress(done, total);
                }
                _ => plain.push(matrix),
            }
        }
        match values {
            Values::Files => {
                let transfers: Vec<Transfer<'_>> =
                    plain.iter().map(|matrix| matrix.transfer(region)).collect();
                device.transfer(&transfers, &mut |bytes| {
                    progress((done + bytes).min(total), total)
                })?;
            }
            Values::Random { seed } => {
                for matrix in plain {
                    let count = matrix.weight.rows() * matrix.weight.cols();
                    let out = region.address.offset(matrix.offset);
                    device.run(&[random(out, count, seed ^ matrix.offset)])?;
                }
            }
        }
        for (index, matrix) in self.matrices.iter().enumerate() {
            let counter = counters.slice(4 * index as u64, 4);
            matrix.count_non_finite(region, counter, device)?;
        }
        let found = device.read_back(counters)?;
        let found = device.wait(found)?;
        device.free(counters)?;
        progress(total, total);
        let counts = found.chunks_exact(4);
        let mut odd = self
            .matrices
            .iter()
            .zip(counts)
            .filter(|(matrix, count)| *count != [0; 4] || matrix.has_odd_scale.load(Relaxed));
        match odd.next() {
            Some((matrix, _)) => Err(LoadError::NotFinite {
                tensor: matrix.weight.name().to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Rounds a matrix on the device, as many rows at a time as the scratch memory holds.
    fn quantize(
        &self,
        matrix: &PlannedMatrix<'_>,
        region: Region,
        counter: Region,
        device: &mut dyn Device,
        values: Values,
    ) -> Result<(), LoadError> {
        let weight = matrix.weight;
        let (rows, cols) = (weight.rows(), weight.cols());
        let plain = MatrixFormat::of(WeightType::F32, self.precision);
        let (from, to) = (plain.row_bytes(cols), matrix.format.row_bytes(cols));
        let chunk = (QUANTIZE_BYTES / from).clamp(1, rows);
        // Rows of `plain` are padded to 16 bytes, which `Quantize` does not expect.
        debug_assert_eq!(from as u64, cols as u64 * self.precision.bytes());
        let scratch = device.allocate((chunk * from) as u64)?;
        let mut first = 0;
        while first < rows {
            let count = chunk.min(rows - first);
            match values {
                Values::Files => device.transfer(
                    &[Transfer {
                        to: scratch.slice(0, (count * from) as u64),
                        rows: count,
                        row_bytes: from,
                        fill: row_filler(matrix, plain, first),
                    }],
                    &mut |_| {},
                )?,
                Values::Random { seed } => {
                    let seed = seed ^ (matrix.offset + first as u64);
                    device.run(&[random(scratch.address, count * cols, seed)])?;
                }
            }
            let kind = u32::from(self.precision == Precision::F32);
            device.run(&[
                Op::CountNonFinite(CountNonFinite {
                    x: scratch.address,
                    counter: counter.address,
                    count: (count * cols) as u64,
                    kind,
                    reserved: 0,
                }),
                Op::Quantize(
                    Quantize {
                        x: scratch.address,
                        out: region.address.offset(matrix.offset + (first * to) as u64),
                        m: count as u32,
                        k: cols as u32,
                        row_bytes: to as u32,
                        reserved: 0,
                    },
                    matrix.format,
                ),
            ])?;
            first += count;
        }
        // Waits for all queued work.
        device.free(scratch)?;
        Ok(())
    }
}

fn random(out: Address, count: usize, seed: u64) -> Op {
    Op::FillRandom(FillRandom {
        out,
        count: count as u64,
        seed,
        std: RANDOM_STD,
        reserved: 0,
    })
}

/// Writes rows from `first` on as `format`, and looks at the scales of those whose blocks stay as
/// they are.
fn row_filler<'a>(
    matrix: &'a PlannedMatrix<'_>,
    format: MatrixFormat,
    first: usize,
) -> Box<Fill<'a>> {
    let weight = matrix.weight;
    let (cols, weight_type) = (weight.cols(), weight.weight_type());
    let from = weight.bytes().len() / weight.rows();
    let to = format.row_bytes(cols);
    Box::new(move |rows, out| {
        for (row, out) in rows.zip(out.chunks_exact_mut(to)) {
            let bytes = &weight.bytes()[(first + row) * from..][..from];
            format.pack(weight_type, bytes, cols, out);
            if has_odd_scale(format, weight_type, bytes) {
                matrix.has_odd_scale.store(true, Relaxed);
            }
        }
    })
}

/// Whether a row in GGML's blocks has a scale that is infinite or not a number; of other formats
/// every value is looked at on the device.
fn has_odd_scale(format: MatrixFormat, weight_type: WeightType, row: &[u8]) -> bool {
    // Where a block holds its scales, each an f16.
    let scales = match format {
        MatrixFormat::Q8_0 => 0..2,
        MatrixFormat::Q6K => 208..210,
        MatrixFormat::Q4K => 0..4,
        MatrixFormat::F32 | MatrixFormat::Bf16 | MatrixFormat::W8 | MatrixFormat::W4 => {
            return false;
        }
    };
    let is_odd = |scale: &[u8; 2]| !half::f16::from_le_bytes(*scale).is_finite();
    let mut blocks = row.chunks_exact(weight_type.block_bytes());
    blocks.any(|block| block[scales.clone()].as_chunks().0.iter().any(is_odd))
}

impl PlannedMatrix<'_> {
    fn transfer(&self, region: Region) -> Transfer<'_> {
        let (rows, row_bytes) = (
            self.weight.rows(),
            self.format.row_bytes(self.weight.cols()),
        );
        Transfer {
            to: region.slice(self.offset, (rows * row_bytes) as u64),
            rows,
            row_bytes,
            fill: row_filler(self, self.format, 0),
        }
    }

    /// Of matrices that lie on the device as plain numbers; those that are rounded there are
    /// counted before, and a block format's values are finite where its scales are, which were
    /// looked at on the way.
    fn count_non_finite(
        &self,
        region: Region,
        counter: Region,
        device: &mut dyn Device,
    ) -> Result<(), DeviceError> {
        let (kind, size) = match self.format {
            MatrixFormat::Bf16 => (0, 2),
            MatrixFormat::F32 => (1, 4),
            _ => return Ok(()),
        };
        let count = self.weight.rows() * self.format.row_bytes(self.weight.cols()) / size;
        device.run(&[Op::CountNonFinite(CountNonFinite {
            x: region.address.offset(self.offset),
            counter: counter.address,
            count: count as u64,
            kind,
            reserved: 0,
        })])
    }
}
