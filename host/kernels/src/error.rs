//! What a kernel refuses, with the value that it refused.

use thiserror::Error;

use crate::weight_type::WeightType;

/// An argument does not fit. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A row of the matrix does not consist of whole blocks.
    #[error("{weight_type} needs columns in multiples of {block_len}, the matrix has {cols}")]
    Columns {
        /// Of the matrix.
        weight_type: WeightType,
        /// Of the matrix.
        cols: usize,
        /// Values per block of that type.
        block_len: usize,
    },
    /// A slice is longer or shorter than its shape says.
    #[error("{what} holds {actual} elements where its shape needs {expected}")]
    Length {
        /// The argument, such as `out`.
        what: &'static str,
        /// Elements (of weight data: bytes) that the shape needs.
        expected: usize,
        /// Elements that were given.
        actual: usize,
    },
    /// A size has no kernel.
    #[error("{what} is {value}, which must be {requirement}")]
    Unsupported {
        /// The argument, such as `block_tokens`.
        what: &'static str,
        /// What was given.
        value: usize,
        /// What would be right.
        requirement: &'static str,
    },
    /// An index points outside what it indexes.
    #[error("{what} is {value}, the limit is {limit}")]
    OutOfRange {
        /// The argument, such as `block id`.
        what: &'static str,
        /// What was given.
        value: usize,
        /// The first value that is too large.
        limit: usize,
    },
    /// A kernel has chosen its instruction set already, or there is none of that name.
    #[error("cannot compute with `{name}`: this machine has {}, and the choice is made once", available.join(", "))]
    InstructionSet {
        /// What was asked for.
        name: String,
        /// What could be.
        available: Vec<&'static str>,
    },
    /// No conversion is built from one format to the other.
    #[error("{from} cannot be quantized to {to}")]
    NoQuantizer {
        /// Of the matrix.
        from: WeightType,
        /// What was wanted.
        to: WeightType,
    },
    /// A value is not finite, or so large that its block's scale is not.
    #[error("row {row} has a value that {weight_type} cannot hold")]
    Unquantizable {
        /// The first such row.
        row: usize,
        /// What was wanted.
        weight_type: WeightType,
    },
    /// The product of a shape's sizes does not fit the address space.
    #[error("{what} of {rows} x {cols} elements does not fit the address space")]
    TooLarge {
        /// The argument.
        what: &'static str,
        /// The shape's first size.
        rows: usize,
        /// The product of the others.
        cols: usize,
    },
}

/// `Ok` if `actual` is `expected`.
pub(crate) fn check_length(
    what: &'static str,
    actual: usize,
    expected: usize,
) -> Result<(), KernelError> {
    if actual == expected {
        Ok(())
    } else {
        Err(KernelError::Length {
            what,
            expected,
            actual,
        })
    }
}

/// `rows * cols`, or the error that names both.
pub(crate) fn checked_product(
    what: &'static str,
    rows: usize,
    cols: usize,
) -> Result<usize, KernelError> {
    rows.checked_mul(cols)
        .ok_or(KernelError::TooLarge { what, rows, cols })
}
