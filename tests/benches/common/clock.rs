//! What is made of times that were taken.

use std::time::Instant;

/// The mean of the middle half.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let half = &values[quarter..values.len() - quarter];
    half.iter().sum::<f64>() / half.len() as f64
}

/// Nanoseconds that a timing of nothing shows.
pub fn clock() -> f64 {
    middle((0..10_001).map(|_| Instant::now().elapsed().as_nanos() as f64).collect())
}
