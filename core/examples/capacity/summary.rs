//! Percentiles.

/// The value below which `share` of all lie; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1)) as f64 * share;
    sorted.get(at.round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantiles_are_values_that_occur() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!([0.0, 0.5, 1.0].map(|s| super::quantile(&values, s)), [1.0, 3.0, 5.0]);
        assert_eq!(super::quantile(&[], 0.5), 0.0);
    }
}
