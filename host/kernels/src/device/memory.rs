//! Where things lie in a device's memory.

/// A byte's address; 0 is nowhere.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Address(pub u64);

impl Address {
    /// Of optional parameters that are absent.
    pub const NONE: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// A range of a device's memory. Dropping it frees nothing: the device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// Of the first byte.
    pub address: Address,
    /// Length.
    pub bytes: u64,
}

impl Region {
    /// `bytes` bytes of it from `offset` on.
    ///
    /// # Panics
    /// If they are not within it.
    #[must_use]
    pub fn slice(self, offset: u64, bytes: u64) -> Self {
        assert!(
            offset
                .checked_add(bytes)
                .is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {offset} of a region of {}",
            self.bytes
        );
        Self {
            address: self.address.offset(offset),
            bytes,
        }
    }
}
