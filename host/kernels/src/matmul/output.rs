//! [`Output`]: a result that several threads fill.

use std::marker::PhantomData;

/// `[tokens, rows]` f32, of which each thread writes other rows.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    first: *mut f32,
    tokens: usize,
    rows: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: an `Output` only lets through `write`, whose callers keep threads apart.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// `values` as `[values.len() / rows, rows]`.
    pub(super) fn new(values: &'a mut [f32], rows: usize) -> Self {
        let tokens = values.len().checked_div(rows).unwrap_or(0);
        Self {
            first: values.as_mut_ptr(),
            tokens,
            rows,
            borrow: PhantomData,
        }
    }

    /// Writes the elements of `token` from row `first_row` on.
    ///
    /// # Safety
    /// No other thread may write the same elements while the `Output` and its copies live.
    #[inline(always)]
    pub(super) unsafe fn write(self, token: usize, first_row: usize, values: &[f32]) {
        assert!(token < self.tokens, "the token is one of the output's");
        assert!(
            first_row + values.len() <= self.rows,
            "the rows are the output's"
        );
        // SAFETY: both assertions together put all elements inside the slice that `new`
        // borrowed, and the caller keeps other threads away from them.
        unsafe {
            let first = self.first.add(token * self.rows + first_row);
            std::ptr::copy_nonoverlapping(values.as_ptr(), first, values.len());
        }
    }
}
