//! Asks the processor for memory before it is used.

use std::cell::Cell;

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

/// Where something lies that will be wanted later, and how many lines it takes. Asking for it reads nothing into the
/// program: what is gone by then does no harm.
#[derive(Clone, Copy, Default)]
pub struct Place(usize);

impl Place {
    /// Where `value` lies.
    #[must_use]
    pub fn of<T: ?Sized>(value: &T) -> Self {
        let start = std::ptr::from_ref(value).cast::<u8>().addr();
        // An address has 48 bits.
        Self(start << 8 | size_of_val(value).div_ceil(LINE).min(255))
    }

    /// As [`prefetch`], of what lies there now.
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..self.0 & 255 {
            let at = (self.0 >> 8) + line * LINE;
            // SAFETY: the instruction reads nothing into the program and never faults, whatever the address.
            unsafe {
                std::arch::x86_64::_mm_prefetch(at as *const i8, std::arch::x86_64::_MM_HINT_T0);
            }
        }
    }
}

/// What a task is likely to look at when it is woken.
pub type Places = [Place; 5];

thread_local! {
    /// Put down by who waits, taken up within the same poll.
    static EXPECTED: Cell<Places> = const { Cell::new([Place(0); 5]) };
}

/// The task that is being polled will look at these when it is woken.
pub fn expect(places: Places) {
    EXPECTED.set(places);
}

/// What the task that was polled will look at.
#[must_use]
pub fn expected() -> Places {
    EXPECTED.take()
}

#[cfg(test)]
mod tests {
    use super::{Place, expect, expected, prefetch};

    #[test]
    fn a_place_that_is_gone_does_no_harm_and_is_taken_up_once() {
        let gone = Place::of(&*vec![0_u8; 4096].into_boxed_slice());
        expect([gone, Place::default(), gone, gone, gone]);
        expected().into_iter().for_each(Place::prefetch);
        assert!(expected().iter().all(|place| place.0 == 0));
        assert_eq!(Place::of(&[0_u8; 65]).0 & 255, 2, "lines");
    }

    #[test]
    fn any_size_will_do_and_nothing_is_changed() {
        let lines: Vec<u8> = (0..=255).collect();
        for size in [0, 1, 63, 64, 65, 256] {
            prefetch(&lines[..size]);
        }
        assert!(lines.iter().enumerate().all(|(at, byte)| at == usize::from(*byte)));
    }
}
