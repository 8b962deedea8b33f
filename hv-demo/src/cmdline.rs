//! The command line: words between blanks, `scenario=NAME` and any number of `option=KEY=VALUE`.

/// A command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandLine<'a>(&'a str);

impl<'a> CommandLine<'a> {
    /// The command line `text`. Any text is one.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The scenario to run: the last one named wins, as later words do in QEMU's own arguments.
    pub fn scenario(self) -> Option<&'a str> {
        self.values("scenario").last()
    }

    /// Options given to the IOMMU that are to be checked, as key and value. A word without a value has an empty one.
    pub fn options(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.values("option").map(|option| option.split_once('=').unwrap_or((option, "")))
    }

    /// What stands behind each `key=`.
    pub fn values(self, key: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.split_ascii_whitespace().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_apart() {
        let line = CommandLine::new(" scenario=first-stage  option=aw-bits=39 option=eim other option==x scenarios=no");
        assert_eq!(line.scenario(), Some("first-stage"));
        assert!(line.options().eq([("aw-bits", "39"), ("eim", ""), ("", "x")]));
    }

    #[test]
    fn the_last_scenario_wins_and_none_is_none() {
        assert_eq!(CommandLine::new("scenario=a scenario=b").scenario(), Some("b"));
        assert_eq!(CommandLine::new("scenario").scenario(), None);
        assert_eq!(CommandLine::new("").scenario(), None);
    }
}
