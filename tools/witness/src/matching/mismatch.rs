//! Why a check and the trace do not agree.

use std::fmt::Display;

/// What was expected and what the trace shows, in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch(String);

impl Mismatch {
    /// At a line of the trace.
    pub fn at(line: usize, expected: impl Display, shown: impl Display) -> Self {
        Self(format!("expected {expected}; the trace shows {shown} (trace line {line})"))
    }

    /// Not at any line.
    pub fn plain(what: impl Display) -> Self {
        Self(what.to_string())
    }

    /// The same, and something to explain it.
    pub fn because(self, why: impl Display) -> Self {
        Self(format!("{}: {why}", self.0))
    }
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
