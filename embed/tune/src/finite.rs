//! Finds non-finite numbers (NaN, infinities) in losses, gradients and variables, so that the error
//! of a diverged run names them.

use candle_core::backprop::GradStore;
use serde_json::Value;

use super::Result;
use super::trainee::Trainee;

/// Names of the non-finite parts of a loss. JSON stores them as null.
pub(super) fn non_finite_parts(parts: &Value) -> String {
    let non_finite: Vec<&str> =
        parts.as_object().into_iter().flatten().filter(|(_, v)| v.is_null()).map(|(name, _)| name.as_str()).collect();
    if non_finite.is_empty() { String::new() } else { format!(" ({})", non_finite.join(", ")) }
}

fn any_non_finite(values: &[f32]) -> bool {
    values.iter().any(|v| !v.is_finite())
}

/// First variable, by name, whose gradient is not finite.
pub(super) fn non_finite_gradient(trainee: &Trainee, grads: &GradStore) -> Result<Option<String>> {
    let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut names = Vec::new();
    for (name, var) in data.iter() {
        if let Some(grad) = grads.get(var.as_tensor())
            && any_non_finite(&grad.flatten_all()?.to_vec1::<f32>()?)
        {
            names.push(name.clone());
        }
    }
    Ok(names.into_iter().min())
}

/// First variable, by name, with a value that is not finite.
pub(super) fn non_finite_variable(trainee: &Trainee) -> Result<Option<String>> {
    let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut names = Vec::new();
    for (name, var) in data.iter() {
        if any_non_finite(&var.flatten_all()?.to_vec1::<f32>()?) {
            names.push(name.clone());
        }
    }
    Ok(names.into_iter().min())
}
