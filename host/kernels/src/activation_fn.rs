//! Gated activation functions, and the small operations on whole vectors.

use crate::error::{KernelError, check_length};

/// `gate = gelu_tanh(gate) * up`, Gemma's gate.
///
/// # Errors
/// [`KernelError::Length`] if the two differ in length.
pub fn gelu_tanh_mul(gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    check_length("up", up.len(), gate.len())?;
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
        *gate = 0.5 * x * (1.0 + inner.tanh()) * up;
    }
    Ok(())
}

/// `gate = gate / (1 + exp(-gate)) * up`, the Llama family's gate.
///
/// # Errors
/// [`KernelError::Length`] if the two differ in length.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    check_length("up", up.len(), gate.len())?;
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
    Ok(())
}

/// `x += y`.
///
/// # Errors
/// [`KernelError::Length`] if the two differ in length.
pub fn add_assign(x: &mut [f32], y: &[f32]) -> Result<(), KernelError> {
    check_length("y", y.len(), x.len())?;
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
    Ok(())
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `x = cap * tanh(x / cap)`. `cap` is positive.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (*x / cap).tanh();
    }
}
