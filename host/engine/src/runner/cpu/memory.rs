//! Whether a model fits, said before it is loaded rather than found out by swapping.

use std::fs;

use crate::error::LoadError;

const ADVICE: &str = "choose a smaller or more strongly quantized model, or free memory";

/// # Errors
/// [`LoadError::NotEnoughMemory`] if `required_bytes` of weights exceed what is available, where
/// that is known.
pub(super) fn check(required_bytes: u64, available_bytes: Option<u64>) -> Result<(), LoadError> {
    match available_bytes {
        Some(available_bytes) if required_bytes > available_bytes => {
            Err(LoadError::NotEnoughMemory {
                required_bytes,
                available_bytes,
                advice: ADVICE,
            })
        }
        _ => Ok(()),
    }
}

/// Memory that could be used without swapping; page cache counts, since the weights are a part of
/// it. `None` where the system does not say.
pub(super) fn available_bytes() -> Option<u64> {
    parse_available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_larger_than_memory_is_refused_with_both_numbers() {
        let error = check(1001, Some(1000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model needs 1001 bytes of memory, 1000 are available; choose a smaller or more \
             strongly quantized model, or free memory"
        );
        assert!(check(1000, Some(1000)).is_ok());
        assert!(check(u64::MAX, None).is_ok());
    }

    #[test]
    fn meminfo_is_read_in_kib() {
        let meminfo = "MemTotal:       24576000 kB\nMemAvailable:   12288000 kB\nBuffers: 1 kB\n";
        assert_eq!(parse_available(meminfo), Some(12_288_000 * 1024));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
    }
}
