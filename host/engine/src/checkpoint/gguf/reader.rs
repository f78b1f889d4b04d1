//! [`Reader`]: GGUF's numbers and texts, in order, never past the end.

use std::ops::Range;

/// Little-endian values in order. Errors say what was cut off.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Over `bytes`, from `position` on, which must lie within them or at their end.
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        debug_assert!(position <= bytes.len());
        Self { bytes, position }
    }

    /// Where the next value begins.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes that are left.
    pub(super) fn rest(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        let Some(taken) = self.bytes[self.position..].get(..len) else {
            return Err(format!(
                "it ends at byte {} within {what}",
                self.bytes.len()
            ));
        };
        self.position += len;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N, what)?;
        Ok(taken
            .try_into()
            .expect("take returns as many bytes as asked"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The range of a string's bytes.
    pub(super) fn string(&mut self) -> Result<Range<usize>, String> {
        let len = self.u64("a text's length")?;
        let Ok(len) = usize::try_from(len) else {
            return Err(format!("a text of {len} bytes is too long"));
        };
        self.take(len, "a text")?;
        Ok(self.position - len..self.position)
    }

    /// A name of at most `limit` bytes. What is not UTF-8 in it becomes U+FFFD.
    pub(super) fn name(&mut self, limit: usize, what: &str) -> Result<String, String> {
        let range = self
            .string()
            .map_err(|reason| format!("{what}: {reason}"))?;
        if range.len() > limit {
            return Err(format!(
                "{what} of {} bytes, at most {limit} are allowed",
                range.len()
            ));
        }
        Ok(String::from_utf8_lossy(&self.bytes[range]).into_owned())
    }
}
