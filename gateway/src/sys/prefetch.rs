//! Asks the processor for memory before it is used.

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Starts to bring all of `value` into the caches, without waiting for it.
///
/// For what a thousand connections each have for themselves: its lines then come at the same time, and not each when
/// the one before it has told where to go on. Does nothing where the processor has no such instruction.
pub fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        let start = std::ptr::from_ref(value).cast::<i8>();
        for at in (0..size_of_val(value)).step_by(LINE) {
            // SAFETY: `at` lies within `value`. The instruction reads nothing into the program and never faults.
            unsafe {
                std::arch::x86_64::_mm_prefetch(start.add(at), std::arch::x86_64::_MM_HINT_T0);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn any_size_will_do_and_nothing_is_changed() {
        let lines: Vec<u8> = (0..=255).collect();
        for size in [0, 1, 63, 64, 65, 256] {
            prefetch(&lines[..size]);
        }
        assert!(lines.iter().enumerate().all(|(at, byte)| at == usize::from(*byte)));
    }
}
