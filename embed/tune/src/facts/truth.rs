//! Three-valued logic (Kleene's) of statements that are true, false or open (`None`).

/// Whether all are true: false if one is false, otherwise open if one is open.
pub(super) fn all(truths: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(true);
    for truth in truths {
        match truth {
            Some(false) => return Some(false),
            None => result = None,
            Some(true) => {}
        }
    }
    result
}

/// Whether one is true: true if one is true, otherwise open if one is open.
pub(super) fn any(truths: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    all(truths.into_iter().map(not)).map(|none| !none)
}

/// The opposite; an open truth stays open.
pub(super) fn not(truth: Option<bool>) -> Option<bool> {
    truth.map(|truth| !truth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_decides_nothing() {
        const T: Option<bool> = Some(true);
        const F: Option<bool> = Some(false);
        for (truths, both, either) in [
            ([T, T], T, T),
            ([T, F], F, T),
            ([T, None], None, T),
            ([F, None], F, None),
            ([F, F], F, F),
            ([None, None], None, None),
        ] {
            assert_eq!((all(truths), any(truths)), (both, either), "{truths:?}");
            let turned = [truths[1], truths[0]];
            assert_eq!((all(turned), any(turned)), (both, either), "{turned:?}");
        }
        assert_eq!((all([]), any([]), not(None)), (T, F, None));
    }
}
