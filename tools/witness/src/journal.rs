//! All records of a run, and what must hold for them together: one start, one end that counts right, nothing around.

use crate::record::{Check, Claim, Record};

/// The records of one scenario.
#[derive(Default)]
pub struct Journal {
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// What is wrong with the records as such.
    pub problems: Vec<String>,
}

impl Journal {
    /// The records in `text`, one a line, that should be those of `scenario`.
    pub fn parse(text: &str, scenario: &str) -> Self {
        let mut journal = Self::default();
        let (mut started, mut end) = (false, None);
        for (at, line) in text.lines().enumerate() {
            let mut problem = |what: String| journal.problems.push(format!("record in line {}: {what}", at + 1));
            let record = match Record::parse(line) {
                Ok(record) => record,
                Err(error) => {
                    problem(error);
                    continue;
                }
            };
            if end.is_some() {
                problem("it comes after the end".into());
            }
            match record {
                Record::Start(_) if started => problem("a second start".into()),
                Record::Start(name) => {
                    started = true;
                    if at != 0 {
                        problem("the start is not the first".into());
                    }
                    if name != scenario {
                        problem(format!("scenario {name}, where {scenario} was run"));
                    }
                }
                Record::End(passed, failed) => end = end.or(Some((passed, failed))),
                Record::Check(check) => journal.checks.push(check),
            }
        }
        if !started {
            journal.problems.push("no start record: the scenario never began".into());
        }
        let passed = journal.checks.iter().filter(|check| check.passed).count() as u64;
        let counted = (passed, journal.checks.len() as u64 - passed);
        match end {
            None => journal.problems.push("no end record: the scenario did not run to its end".into()),
            Some(end) if end != counted => journal.problems.push(format!(
                "the end record counts {} passed and {} failed, the records are {} and {}",
                end.0, end.1, counted.0, counted.1
            )),
            Some(_) if journal.checks.is_empty() => journal.problems.push("no check at all".into()),
            Some(_) => {}
        }
        journal
    }

    /// Whether the guest found that this option took effect.
    pub fn says_option(&self, option: &str) -> bool {
        let name = format!("option {option}");
        self.checks.iter().any(|check| matches!(check.claim, Claim::State) && check.name == name)
    }
}
