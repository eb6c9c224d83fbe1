//! Layout of a batch: items of different lengths, one after the other and without padding; and the
//! mask of the keys that a query may see.

/// Layout of the rows of a batch, one item after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Index of each item's first row, and the number of all rows behind them.
    starts: Vec<usize>,
    /// Numbers per row.
    pub width: usize,
}

impl Rows {
    /// Layout of items with `lengths` rows of `width` numbers.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = usize>, width: usize) -> Self {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect(), width }
    }

    /// Layout of `items` items with `rows` rows each.
    #[must_use]
    pub fn even(items: usize, rows: usize, width: usize) -> Self {
        Self::new(std::iter::repeat_n(rows, items), width)
    }

    /// Number of items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of rows before `item`; of all rows when `item` is [`Rows::items`].
    #[must_use]
    pub fn before(&self, item: usize) -> usize {
        self.starts[item]
    }

    /// Number of rows of `item`.
    #[must_use]
    pub fn length(&self, item: usize) -> usize {
        self.starts[item + 1] - self.starts[item]
    }

    /// Number of rows of every item.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.items()).map(|item| self.length(item))
    }

    /// Number of rows of all items.
    #[must_use]
    pub fn count(&self) -> usize {
        self.before(self.items())
    }

    /// Numbers in all rows: [`Rows::count`] times `width`.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.count() * self.width
    }
}

/// Mask of the keys that each query may see: the first ones of its text, and when causal none after
/// itself.
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
    /// Mask for texts of `lengths`, padded to `keys` tokens.
    #[must_use]
    pub fn new(lengths: &[usize], keys: usize, causal: bool) -> Self {
        Self { lengths: lengths.into(), keys, causal }
    }

    /// Whether the mask fits items with these numbers of keys, with or without their padding.
    #[must_use]
    pub fn fits(&self, keys: impl ExactSizeIterator<Item = usize>) -> bool {
        self.lengths.len() == keys.len()
            && self.lengths.iter().zip(keys).all(|(own, keys)| keys == self.keys || keys == *own.min(&self.keys))
    }

    /// Number of the first keys that query `i` of text `item` may see.
    #[must_use]
    pub fn visible(&self, item: usize, i: usize) -> usize {
        let length = self.lengths[item].min(self.keys);
        if self.causal { length.min(i + 1) } else { length }
    }
}
