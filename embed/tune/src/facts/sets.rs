//! Small sets of enum values, stored as bits of a number because they are compared millions of
//! times in a run.

/// Declares the set `$set` of values of `$item`, an enum of fewer than 128 values.
macro_rules! bit_set {
    ($(#[$doc:meta])* $set:ident of $item:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
        pub struct $set(u128);

        impl $set {
            /// The empty set.
            pub const NONE: Self = Self(0);

            /// The set of `items`.
            pub const fn of(items: &[$item]) -> Self {
                let (mut bits, mut at) = (0, 0);
                while at < items.len() {
                    bits |= 1 << items[at] as u32;
                    at += 1;
                }
                Self(bits)
            }

            /// The union of both sets.
            pub const fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The intersection of both sets.
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Whether the set is empty.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether the sets have a value in common.
            pub const fn meets(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// Whether the set is a non-empty subset of `other`.
            pub const fn within(self, other: Self) -> bool {
                self.0 != 0 && self.0 & !other.0 == 0
            }
        }

        impl std::fmt::Debug for $set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_set().entries($item::ALL.iter().filter(|item| self.meets(Self::of(&[**item])))).finish()
            }
        }
    };
}

pub(super) use bit_set;
