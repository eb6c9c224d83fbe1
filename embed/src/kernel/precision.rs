//! The arithmetic that layers use, said once for a stretch of code and not at every layer.
//!
//! It belongs to the thread that builds the graph, so that a training thread and an inference thread of one process, or
//! two tests, do not disturb each other.

use std::cell::Cell;

/// The arithmetic of a product. On the CPU memory is `f32` at any; on a GPU a loaded model is held in it as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Factors rounded to bfloat16, sums in `f32`; the `f32` path on a CPU without bf16 instructions.
    Bf16,
    /// Half precision, on GPUs only.
    F16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// As it is written in configurations and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// What layers on this thread compute in: [`Precision::F32`], or what the innermost [`Precision::scope`] says.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Runs `work`, whose layers compute in this precision. A backward pass computes in the precision its forward pass
    /// had, wherever it runs.
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
            let elsewhere = std::thread::spawn(Precision::current).join().expect("reads a cell");
            (Precision::F32.scope(Precision::current), Precision::current(), elsewhere)
        });
        assert_eq!(inner, (Precision::F32, Precision::Bf16, Precision::F32));
        assert!(std::panic::catch_unwind(|| Precision::Bf16.scope(|| panic!("on purpose"))).is_err());
        assert_eq!(Precision::current(), Precision::F32);
    }
}
