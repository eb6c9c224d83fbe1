//! Prepacked weights: a weight matrix packed once for many products.

use super::{Engine, Epilogue, KernelError, Mat, MatMut, Precision, expect_shape, unpacked};

/// Weights of a linear layer, out x in, in the layout that the engine reads.
pub struct PackedWeights {
    engine: Engine,
    outputs: usize,
    inputs: usize,
    stored: Stored,
}

enum Stored {
    /// Unpacked, with the strides of rows and columns.
    Plain { values: Vec<f32>, strides: (usize, usize) },
    #[cfg(target_arch = "x86_64")]
    Tiles(Tiles),
}

#[cfg(target_arch = "x86_64")]
use tiles::Tiles;

#[cfg(target_arch = "x86_64")]
mod tiles {
    use crate::kernel::pack::Tile;
    use crate::kernel::pool::Pool;

    /// Pool of tiles, at most 256 MiB: training packs its weights in every step, and new memory
    /// would have to be zeroed.
    static TILE_POOL: Pool<Tile> = Pool::new(256 << 10);

    /// Tiles that return to the pool when dropped.
    pub(super) struct Tiles {
        data: Vec<Tile>,
        len: usize,
    }

    impl Tiles {
        /// `len` tiles of any value.
        pub(super) fn take(len: usize) -> Self {
            Self { data: TILE_POOL.take_exact(len, Tile::ZERO), len }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            TILE_POOL.put_back(std::mem::take(&mut self.data));
        }
    }

    impl std::ops::Deref for Tiles {
        type Target = [Tile];

        fn deref(&self) -> &[Tile] {
            &self.data[..self.len]
        }
    }

    impl std::ops::DerefMut for Tiles {
        fn deref_mut(&mut self) -> &mut [Tile] {
            &mut self.data[..self.len]
        }
    }
}

impl std::fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeights({} x {}, {:?})", self.outputs, self.inputs, self.engine)
    }
}

impl PackedWeights {
    /// Packs `weight` (out x in, as a linear layer stores it).
    #[must_use]
    pub fn new(weight: Mat<'_>, precision: Precision) -> Self {
        Self::packed(weight, Engine::for_weights(precision))
    }

    /// [`PackedWeights::new`] for an engine chosen by name.
    ///
    /// # Errors
    /// [`KernelError::Unavailable`] when this machine lacks it.
    pub fn on(engine: Engine, weight: Mat<'_>) -> Result<Self, KernelError> {
        if engine.available() { Ok(Self::packed(weight, engine)) } else { Err(KernelError::Unavailable(engine)) }
    }

    fn packed(weight: Mat<'_>, engine: Engine) -> Self {
        let (outputs, inputs) = (weight.rows(), weight.cols());
        let stored = match engine {
            #[cfg(target_arch = "x86_64")]
            _ if engine != Engine::Gemm && inputs > 0 => {
                let mut tiles = Tiles::take(super::blocks::tiles(engine, outputs, inputs));
                super::blocks::pack_right(engine, weight.t(), &mut tiles, rayon::current_num_threads());
                Stored::Tiles(tiles)
            }
            _ => Stored::Plain { values: weight.data().to_vec(), strides: weight.strides() },
        };
        Self { engine, outputs, inputs, stored }
    }

    /// Columns of the output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// [`PackedWeights::forward`] into new memory, rows x out. It begins as zeros, so that
    /// [`super::Add::Output`] adds nothing.
    ///
    /// # Errors
    /// As [`PackedWeights::forward`].
    pub fn product(&self, x: Mat<'_>, epilogue: Epilogue<'_>, threads: usize) -> Result<Vec<f32>, KernelError> {
        let mut out = vec![0.0; x.rows() * self.outputs];
        self.forward(x, MatMut::new(&mut out, x.rows(), self.outputs)?, epilogue, threads)?;
        Ok(out)
    }

    /// `out = epilogue(x Wᵀ)` with `x` of rows x in and `out` of rows x out; `threads` as in
    /// [`super::matmul`].
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the shapes do not fit.
    pub fn forward(
        &self,
        x: Mat<'_>,
        out: MatMut<'_>,
        epilogue: Epilogue<'_>,
        threads: usize,
    ) -> Result<(), KernelError> {
        expect_shape("the input", (x.rows(), x.cols()), (x.rows(), self.inputs))?;
        expect_shape("the output", (out.rows(), out.cols()), (x.rows(), self.outputs))?;
        epilogue.check(x.rows(), self.outputs)?;
        let threads = if threads == 0 { rayon::current_num_threads() } else { threads };
        match &self.stored {
            #[cfg(target_arch = "x86_64")]
            Stored::Tiles(tiles) => {
                let right = super::blocks::PackedRight { tiles, k: self.inputs, n: self.outputs };
                super::blocks::multiply_packed(self.engine, x, right, out, epilogue, threads);
            }
            Stored::Plain { values, strides: (row, col) } => {
                let weight = Mat::strided(values, self.outputs, self.inputs, *row, *col)?;
                unpacked::multiply(x, weight.t(), out, epilogue, threads);
            }
        }
        Ok(())
    }
}
