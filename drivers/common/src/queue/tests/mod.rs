//! The queue on paper: what does not need hardware's own ways, which drivers test on their models.

mod seats;
