//! Batches of items of different lengths, one behind the other and without padding, and which keys a query may see.

/// Rows of a batch of items, one item behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Row at which each item starts, and the number of rows behind them.
    starts: Vec<usize>,
    /// Numbers of a row.
    pub width: usize,
}

impl Rows {
    /// Of items with `lengths` rows of `width` numbers.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = usize>, width: usize) -> Self {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect(), width }
    }

    /// Of `items` items with `rows` rows each.
    #[must_use]
    pub fn even(items: usize, rows: usize, width: usize) -> Self {
        Self::new(std::iter::repeat_n(rows, items), width)
    }

    /// Number of items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.starts.len() - 1
    }

    /// Rows before `item`; of all items when `item` is their number.
    #[must_use]
    pub fn before(&self, item: usize) -> usize {
        self.starts[item]
    }

    /// Rows of `item`.
    #[must_use]
    pub fn length(&self, item: usize) -> usize {
        self.starts[item + 1] - self.starts[item]
    }

    /// Rows of every item.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.items()).map(|item| self.length(item))
    }

    /// Rows of all items.
    #[must_use]
    pub fn count(&self) -> usize {
        self.before(self.items())
    }

    /// Numbers of all rows.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.count() * self.width
    }
}

/// Which keys each query may see: the first ones of its text, and when causal none after itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// True length of every text.
    pub lengths: Vec<usize>,
    /// Tokens that each text is padded to.
    pub keys: usize,
    /// Whether a query sees only itself and what comes before it (the reference's word prediction).
    pub causal: bool,
}

impl Mask {
    /// For texts of `lengths`, padded to `keys` tokens.
    #[must_use]
    pub fn new(lengths: &[usize], keys: usize, causal: bool) -> Self {
        Self { lengths: lengths.into(), keys, causal }
    }

    /// Whether items with so many keys are those of this mask, with or without their padding.
    #[must_use]
    pub fn fits(&self, keys: impl ExactSizeIterator<Item = usize>) -> bool {
        self.lengths.len() == keys.len()
            && self.lengths.iter().zip(keys).all(|(own, keys)| keys == self.keys || keys == *own.min(&self.keys))
    }

    /// How many of the first keys query `i` of text `item` may see.
    #[must_use]
    pub fn visible(&self, item: usize, i: usize) -> usize {
        let length = self.lengths[item].min(self.keys);
        if self.causal { length.min(i + 1) } else { length }
    }
}
