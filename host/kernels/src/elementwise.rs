//! Small operations on whole vectors.

use crate::error::{KernelError, check_length};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_and_scales() {
        let mut x = [1.0, 2.0, 3.0];
        add_assign(&mut x, &[0.5, -2.0, 1.0]).unwrap();
        scale(&mut x, 2.0);
        assert_eq!(x, [3.0, 0.0, 8.0]);
        let error = add_assign(&mut x, &[0.0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "y holds 1 elements where its shape needs 3"
        );
    }
}
