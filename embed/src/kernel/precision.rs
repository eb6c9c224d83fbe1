//! The precision of matrix products, set for a scope and not per layer.
//!
//! It is a thread-local setting, so that a training thread and an inference thread of one process,
//! or two tests, do not disturb each other.

use std::cell::Cell;

/// Precision of matrix products. On the CPU all tensors are `f32` in memory; on a GPU a model's
/// weights and activations have this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Factors rounded to bfloat16, sums in `f32`; the `f32` path on a CPU without bf16
    /// instructions.
    Bf16,
    /// Half precision, on GPUs only.
    F16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// Name in configurations and responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The current precision of this thread: that of the innermost [`Precision::scope`], or
    /// [`Precision::F32`].
    #[must_use]
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Runs `work`, whose layers compute in this precision. A backward pass computes in the
    /// precision its forward pass had, wherever it runs.
    pub fn scope<R>(self, work: impl FnOnce() -> R) -> R {
        struct Restore(Precision);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self));
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::Precision;

    #[test]
    fn a_scope_ends_even_by_panic_and_stays_on_its_thread() {
        let inner = Precision::Bf16.scope(|| {
            let elsewhere = std::thread::spawn(Precision::current).join().expect("the thread ends");
            (Precision::F32.scope(Precision::current), Precision::current(), elsewhere)
        });
        assert_eq!(inner, (Precision::F32, Precision::Bf16, Precision::F32));
        assert!(std::panic::catch_unwind(|| Precision::Bf16.scope(|| panic!("on purpose"))).is_err());
        assert_eq!(Precision::current(), Precision::F32);
    }
}
