//! Linear assignment with a cost limit: which track takes which detection.
//!
//! Shortest augmenting paths with dual variables, the augmentation phase of Jonker and Volgenant
//! (Computing 38, 1987) in the form for rectangular problems (Crouse, IEEE TAES 52, 2016); that
//! phase alone is exact, and the greedy initialisations of the square algorithm are not valid when
//! columns may stay free.
//!
//! The limit is part of the problem, not a filter applied afterwards: the sum of `cost - limit`
//! over the chosen pairs is minimal, and any number of pairs may be chosen. A minimum-sum
//! assignment that is filtered by the limit afterwards would sometimes give up a good pair for one
//! that is then discarded.

const FREE: usize = usize::MAX;

/// Chooses pairs `(row, column)`, ordered by row, each row and column at most once, that minimise
/// the sum of `cost - limit`. Pairs at or above the limit (and those whose cost is not a number)
/// are never chosen.
///
/// `cost` is row-major, `rows x cols`; an empty side gives no pairs. Panics when `cost` is shorter
/// than that.
pub fn assign(cost: &[f64], rows: usize, cols: usize, limit: f64) -> Vec<(usize, usize)> {
    assert!(cost.len() >= rows * cols, "{rows}x{cols} costs expected, got {}", cost.len());
    if rows == 0 || cols == 0 {
        return Vec::new();
    }
    // With the gain clipped at zero, a complete assignment of the shorter side is optimal; its
    // pairs with zero gain are not matches.
    let gain = |r: usize, c: usize| {
        let d = cost[r * cols + c] - limit;
        if d < 0.0 { d } else { 0.0 }
    };
    let mut pairs: Vec<(usize, usize)> = if rows <= cols {
        augment(rows, cols, gain).into_iter().enumerate().collect()
    } else {
        augment(cols, rows, |c, r| gain(r, c)).into_iter().enumerate().map(|(c, r)| (r, c)).collect()
    };
    pairs.retain(|&(r, c)| gain(r, c) < 0.0);
    pairs.sort_unstable();
    pairs
}

/// Column of every row in a complete minimum-sum assignment; `n <= m`, all values finite.
fn augment(n: usize, m: usize, value: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    let (mut u, mut v) = (vec![0.0; n], vec![0.0; m]);
    let (mut col_of, mut row_of) = (vec![FREE; n], vec![FREE; m]);
    let (mut dist, mut from, mut done) = (vec![0.0; m], vec![FREE; m], vec![false; m]);
    for start in 0..n {
        dist.fill(f64::INFINITY);
        done.fill(false);
        let (mut row, mut reached) = (start, 0.0);
        // Dijkstra over reduced costs from the free row `start` to the nearest free column.
        let sink = loop {
            let (mut best, mut next) = (f64::INFINITY, 0);
            for j in (0..m).filter(|&j| !done[j]) {
                let through = reached + value(row, j) - u[row] - v[j];
                if through < dist[j] {
                    dist[j] = through;
                    from[j] = row;
                }
                // Among equals a free column ends the search sooner.
                if dist[j] < best || (dist[j] == best && row_of[j] == FREE) {
                    best = dist[j];
                    next = j;
                }
            }
            reached = best;
            done[next] = true;
            if row_of[next] == FREE {
                break next;
            }
            row = row_of[next];
        };
        u[start] += reached;
        for j in (0..m).filter(|&j| done[j] && j != sink) {
            let slack = reached - dist[j];
            u[row_of[j]] += slack;
            v[j] -= slack;
        }
        let mut j = sink;
        loop {
            let r = from[j];
            row_of[j] = r;
            let before = std::mem::replace(&mut col_of[r], j);
            if r == start {
                break;
            }
            j = before;
        }
    }
    col_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Smallest sum of `cost - limit` by exhaustive search.
    fn brute(cost: &[f64], rows: usize, cols: usize, limit: f64, row: usize, taken: u32) -> f64 {
        if row == rows {
            return 0.0;
        }
        let mut best = brute(cost, rows, cols, limit, row + 1, taken);
        for c in (0..cols).filter(|c| taken & (1 << c) == 0) {
            let d = cost[row * cols + c] - limit;
            if d < 0.0 {
                best = best.min(d + brute(cost, rows, cols, limit, row + 1, taken | (1 << c)));
            }
        }
        best
    }

    #[test]
    fn the_limit_is_part_of_the_problem() {
        // Minimum sum would take the diagonal (0.05 + 0.95 < 0.45 + 0.6), of which the limit 0.7
        // leaves one pair.
        assert_eq!(assign(&[0.05, 0.45, 0.6, 0.95], 2, 2, 0.7), [(0, 0)]);
        assert_eq!(assign(&[0.05, 0.15, 0.2, 0.95], 2, 2, 0.7), [(0, 1), (1, 0)]);
        assert_eq!(assign(&[f64::NAN, 0.8], 1, 2, 0.8), []);
    }

    proptest! {
        #[test]
        fn optimal_against_trying_everything(
            rows in 0usize..=6,
            cols in 0usize..=6,
            cells in proptest::collection::vec(prop_oneof![0.0..1.0f64, Just(1.0), Just(0.5)], 36),
            limit in 0.1..1.2f64,
        ) {
            let pairs = assign(&cells, rows, cols, limit);
            let total: f64 = pairs.iter().map(|&(r, c)| cells[r * cols + c] - limit).sum();
            prop_assert!((total - brute(&cells, rows, cols, limit, 0, 0)).abs() < 1e-12);
            for (k, &(r, c)) in pairs.iter().enumerate() {
                prop_assert!(r < rows && c < cols && cells[r * cols + c] < limit);
                prop_assert!(pairs[..k].iter().all(|&(a, b)| a < r && b != c));
            }
        }
    }
}
