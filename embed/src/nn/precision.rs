//! The arithmetic of the linear layers' three products, for the whole process.
//!
//! Training spends most of its time in them; bfloat16 factors with single-precision sums make it several times faster and
//! change the gradients by less than the choice of a batch does. Everything else stays in single precision.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernel::Precision;

static BF16: AtomicBool = AtomicBool::new(false);

/// Sets the arithmetic of every linear layer from now on; single precision at the start.
pub fn set_precision(precision: Precision) {
    BF16.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// What [`set_precision`] said last.
pub fn precision() -> Precision {
    if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}
