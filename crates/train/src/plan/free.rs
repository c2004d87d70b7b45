//! How much memory a process may still take.

use std::fs::read_to_string;

/// Bytes that can be had without swapping, within the limits of the process's control group and of its address space; 4 GB where
/// the system does not say.
pub(crate) fn available_memory() -> u64 {
    let free = read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemAvailable:"));
    let limits = [free, group(), address_space()];
    limits.into_iter().flatten().min().unwrap_or(4 << 30)
}

/// The number behind a name, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    number.checked_mul(1 << 10)
}

/// What the control group leaves, of either version.
fn group() -> Option<u64> {
    let number = |path: String| read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let of = read_to_string("/proc/self/cgroup").ok()?;
    let left = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, kinds, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, limit, used) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => return None,
        };
        let at = |file: &str| number(format!("{root}{path}/{file}")).or_else(|| number(format!("{root}/{file}")));
        at(limit)?.checked_sub(at(used)?)
    };
    of.lines().filter_map(left).min()
}

/// What `ulimit -v` leaves.
fn address_space() -> Option<u64> {
    let limits = read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = soft.split_whitespace().next()?.parse().ok()?;
    let used = kilobytes(&read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "MemFree:   12 kB\nMemAvailable:      3 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(3072));
        assert_eq!(kilobytes(text, "Swap:"), None);
        assert!(available_memory() > 0);
    }
}
