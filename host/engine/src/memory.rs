//! Whether this machine has the memory that a model needs, asked before it is loaded.

use std::fs;

use crate::error::LoadError;

/// Refuses what would not fit. Weights are mapped, but a model whose pages do not stay in memory
/// is read from disk again at every step, so they count like the KV cache.
///
/// # Errors
/// [`LoadError::NotEnoughMemory`] with `advice` on what the operator can change. Where the
/// system does not say what is available, nothing is refused.
pub fn check(required_bytes: u64, advice: &'static str) -> Result<(), LoadError> {
    compare(required_bytes, available(), advice)
}

fn compare(
    required_bytes: u64,
    available: Option<u64>,
    advice: &'static str,
) -> Result<(), LoadError> {
    match available {
        Some(available_bytes) if available_bytes < required_bytes => {
            Err(LoadError::NotEnoughMemory {
                required_bytes,
                available_bytes,
                advice,
            })
        }
        _ => Ok(()),
    }
}

/// Bytes that can be used without swapping, by the machine's and the container's measure.
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_available(&text));
    let control_group = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}"));
    let container = match (control_group("memory.max"), control_group("memory.current")) {
        (Ok(limit), Ok(used)) => {
            let cached = control_group("memory.stat")
                .map(|text| file_cache(&text))
                .unwrap_or(0);
            within_limit(&limit, &used, cached)
        }
        _ => None,
    };
    machine.into_iter().chain(container).min()
}

/// `MemAvailable` of `/proc/meminfo`, which gives it in KiB.
fn mem_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What a control group may still take. Cached file pages give way, so they count as free.
fn within_limit(limit: &str, used: &str, cached: u64) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?; // `max` is no limit
    let used: u64 = used.trim().parse().ok()?;
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

fn file_cache(stat: &str) -> u64 {
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    value("active_file ").unwrap_or(0) + value("inactive_file ").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_advice() {
        let error = compare(10, Some(9), "take a smaller model").unwrap_err();
        let expected = "the model needs 10 bytes of memory, 9 are available; take a smaller model";
        assert_eq!(error.to_string(), expected);
        assert!(compare(9, Some(9), "").is_ok());
        assert!(compare(u64::MAX, None, "").is_ok());
    }

    #[test]
    fn this_machine_cannot_hold_everything() {
        assert!(check(1, "").is_ok());
        assert!(matches!(
            check(u64::MAX, ""),
            Err(LoadError::NotEnoughMemory { .. })
        ));
    }

    #[test]
    fn reads_what_the_system_says() {
        let meminfo = "MemTotal:       24 kB\nMemAvailable:   12 kB\nBuffers: 1 kB\n";
        assert_eq!(mem_available(meminfo), Some(12 * 1024));
        assert_eq!(mem_available("MemTotal: 24 kB\n"), None);
        assert_eq!(file_cache("anon 5\nactive_file 7\ninactive_file 8\n"), 15);
        assert_eq!(within_limit("100\n", "60\n", 15), Some(55));
        assert_eq!(within_limit("100\n", "160\n", 0), Some(0));
        assert_eq!(within_limit("max\n", "60\n", 0), None);
    }
}
