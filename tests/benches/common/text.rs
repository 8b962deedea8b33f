//! Tables for people to read.

use std::fmt;

/// Nanoseconds, with as many digits as mean something.
pub fn ns(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Rows of text, to be aligned.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these heads of columns.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    /// Adds heads.
    pub fn head<const N: usize>(&mut self, more: [&str; N]) {
        self.more(more.map(str::to_owned));
    }

    /// Begins a row.
    pub fn row<const N: usize>(&mut self, cells: [impl Into<String>; N]) {
        self.0.push(cells.map(Into::into).to_vec());
    }

    /// Goes on with the row.
    pub fn more<const N: usize>(&mut self, cells: [String; N]) {
        self.0.last_mut().expect("a row was begun").extend(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0[0].len();
        let width = |column: usize| self.0.iter().map(|row| row[column].len()).max().unwrap_or(0);
        for (index, row) in self.0.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                // Names to the left, numbers to the right.
                let width = width(column);
                if column == 0 { write!(f, "| {cell:<width$} ")? } else { write!(f, "| {cell:>width$} ")? }
            }
            writeln!(f, "|")?;
            if index == 0 {
                (0..columns).try_for_each(|column| {
                    let dashes = "-".repeat(width(column) + 1);
                    let side = if column == 0 { "-" } else { ":" };
                    write!(f, "|{dashes}{side}")
                })?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}
