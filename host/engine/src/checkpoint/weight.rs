//! One tensor of a checkpoint: where it lies in the file, or as it was quantized from there.

use std::{fmt, ops::Range, sync::Arc};

use gapura_kernels::{Matrix, WeightType};

use super::mapped_file::MappedFile;

/// A tensor in a memory-mapped file, or one made of it. Cheap to clone; the map lives as long as
/// any weight of it.
#[derive(Clone)]
pub struct Weight {
    name: Arc<str>,
    data: Data,
    weight_type: WeightType,
    shape: Vec<usize>,
}

#[derive(Clone)]
enum Data {
    Mapped {
        map: Arc<MappedFile>,
        range: Range<usize>,
    },
    Owned(Arc<Vec<u8>>),
}

impl Weight {
    /// The tensor `name` at `range` of `map`, which must hold exactly `byte_size(weight_type, &shape)`
    /// bytes and lie inside the map: both containers check that when they are opened.
    pub(crate) fn new(
        name: &str,
        map: Arc<MappedFile>,
        range: Range<usize>,
        weight_type: WeightType,
        shape: Vec<usize>,
    ) -> Self {
        debug_assert_eq!(byte_size(weight_type, &shape), Ok(range.len()));
        debug_assert!(range.end <= map.bytes().len());
        Self {
            name: name.into(),
            data: Data::Mapped { map, range },
            weight_type,
            shape,
        }
    }

    /// The same tensor with other elements, `bytes_as(weight_type)` bytes.
    pub(crate) fn replaced(&self, weight_type: WeightType, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(self.bytes_as(weight_type), bytes.len());
        Self {
            name: self.name.clone(),
            data: Data::Owned(Arc::new(bytes)),
            weight_type,
            shape: self.shape.clone(),
        }
    }

    /// As the container calls it; on the hub without the prefix of a multimodal model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its elements are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Slowest dimension first: `[rows, cols]` of a matrix, `[len]` of a norm.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Output features of a matrix; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)]
            .iter()
            .product()
    }

    /// Input features of a matrix; the length of a vector.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The tensor's bytes, little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { map, range } => &map.bytes()[range.clone()],
            Data::Owned(bytes) => bytes,
        }
    }

    /// Bytes that it would take as `weight_type`, of which its rows must be whole blocks.
    pub(crate) fn bytes_as(&self, weight_type: WeightType) -> usize {
        self.rows() * (self.cols() / weight_type.block_len()) * weight_type.block_bytes()
    }

    /// The tensor as the kernels take it, without a copy.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.weight_type, self.rows(), self.cols(), self.bytes())
            .expect("the container checked the size against type and shape")
    }

    /// All values, row by row. For norms and other small tensors.
    pub fn to_f32(&self) -> Vec<f32> {
        let matrix = self.matrix();
        let mut values = vec![0.0; self.rows() * self.cols()];
        for (row, out) in values.chunks_exact_mut(self.cols().max(1)).enumerate() {
            matrix
                .dequantize_row(row, out)
                .expect("the row exists and is as long as the columns");
        }
        values
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Weight({}, {}, {:?})",
            self.name, self.weight_type, self.shape
        )
    }
}

/// Bytes that a tensor takes.
///
/// # Errors
/// Says, to follow the tensor's name, why there is no such tensor: an empty dimension, rows that
/// are no whole number of blocks, a size beyond the address space.
pub(crate) fn byte_size(weight_type: WeightType, shape: &[usize]) -> Result<usize, String> {
    let cols = shape.last().copied().unwrap_or(1);
    if shape.contains(&0) {
        return Err(format!("has the empty shape {shape:?}"));
    }
    let block_len = weight_type.block_len();
    if !cols.is_multiple_of(block_len) {
        return Err(format!(
            "has rows of {cols}, no multiple of {weight_type}'s block of {block_len}"
        ));
    }
    shape
        .iter()
        .try_fold(1_usize, |product, dimension| {
            product.checked_mul(*dimension)
        })
        .and_then(|elements| (elements / block_len).checked_mul(weight_type.block_bytes()))
        .ok_or_else(|| format!("has the impossible shape {shape:?}"))
}
