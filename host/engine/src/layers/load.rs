//! Weights of a checkpoint, with their shapes checked against the configuration.

use crate::{
    checkpoint::{Checkpoint, Weight},
    error::LoadError,
};

/// The matrix `name`, left where it lies.
///
/// # Errors
/// [`LoadError::MissingTensor`], [`LoadError::WrongShape`].
pub(super) fn matrix(
    checkpoint: &Checkpoint,
    name: &str,
    shape: [usize; 2],
) -> Result<Weight, LoadError> {
    checked(checkpoint, name, &shape)
}

/// The values of the vector `name`.
///
/// # Errors
/// As [`matrix`].
pub(super) fn vector(
    checkpoint: &Checkpoint,
    name: &str,
    len: usize,
) -> Result<Vec<f32>, LoadError> {
    Ok(checked(checkpoint, name, &[len])?.to_f32())
}

fn checked(checkpoint: &Checkpoint, name: &str, expected: &[usize]) -> Result<Weight, LoadError> {
    let weight = checkpoint.tensor(name)?;
    if weight.shape() == expected {
        return Ok(weight);
    }
    Err(LoadError::WrongShape {
        tensor: name.to_owned(),
        found: weight.shape().to_vec(),
        expected: expected.to_vec(),
    })
}
