//! [`Matrix`]: a weight matrix in somebody else's memory.

use crate::dequantize::dequantize;
use crate::error::{KernelError, check_length, checked_product};
use crate::weight_type::WeightType;

/// A borrowed weight matrix `[rows, cols]`, row-major, in blocks along the columns.
///
/// The data may begin at any address: nothing is assumed of its alignment, so a view into a
/// memory-mapped file will do.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    weight_type: WeightType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A view of `data` as `[rows, cols]`. Numbers in it are little-endian.
    ///
    /// # Errors
    /// [`KernelError::Columns`] if `cols` is no multiple of the type's block length,
    /// [`KernelError::Length`] if `data` is not exactly as long as the shape says.
    pub fn new(
        weight_type: WeightType,
        rows: usize,
        cols: usize,
        data: &'a [u8],
    ) -> Result<Self, KernelError> {
        let block_len = weight_type.block_len();
        if !cols.is_multiple_of(block_len) {
            return Err(KernelError::Columns {
                weight_type,
                cols,
                block_len,
            });
        }
        let row_bytes = checked_product("matrix row", cols / block_len, weight_type.block_bytes())?;
        let bytes = checked_product("matrix", rows, row_bytes)?;
        check_length("matrix data", data.len(), bytes)?;
        Ok(Self {
            weight_type,
            rows,
            cols,
            row_bytes,
            data,
        })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of its elements.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// The values of one row, such as a token's embedding. `out`: `[cols]`.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] if there is no such row, [`KernelError::Length`] if `out`
    /// is not `[cols]`.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if row >= self.rows {
            return Err(KernelError::OutOfRange {
                what: "row",
                value: row,
                limit: self.rows,
            });
        }
        check_length("out", out.len(), self.cols)?;
        dequantize(self.weight_type, self.row(row), out);
        Ok(())
    }

    /// Bytes per row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All bytes, `rows * row_bytes`.
    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of one row, which must exist.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_data_must_agree() {
        let message = |weight_type, rows, cols, data: &[u8]| {
            Matrix::new(weight_type, rows, cols, data)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(WeightType::Q4K, 1, 576, &[]),
            "Q4_K needs columns in multiples of 256, the matrix has 576"
        );
        assert_eq!(
            message(WeightType::Q4_1, 2, 64, &[0; 79]),
            "matrix data holds 79 elements where its shape needs 80"
        );
        assert_eq!(
            message(WeightType::F32, 1 << 40, 1 << 40, &[]),
            format!(
                "matrix of {} x {} elements does not fit the address space",
                1u64 << 40,
                1u64 << 42
            )
        );
    }

    #[test]
    fn rows_are_dequantized_one_by_one() {
        let data: Vec<u8> = [1.5f32, -2.0, 3.0, 4.0]
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        let w = Matrix::new(WeightType::F32, 2, 2, &data).unwrap();
        let mut out = [0.0; 2];
        w.dequantize_row(1, &mut out).unwrap();
        assert_eq!(out, [3.0, 4.0]);
        let error = w.dequantize_row(2, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "row is 2, the limit is 2");
        let error = w.dequantize_row(0, &mut out[..1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "out holds 1 elements where its shape needs 2"
        );
    }
}
