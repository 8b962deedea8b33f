//! The command queue: which commands the unit has carried out, counted as the driver counts them.

/// Follows the unit through its queue. The unit says where it stands before each command and after the last one; a
/// command is done once it has moved on.
#[derive(Default)]
pub struct Commands {
    /// Index and wrap bit together.
    mask: u32,
    /// Commands carried out so far.
    done: u32,
    /// The one that is being carried out: whether it is a CMD_SYNC, once that is known.
    running: Option<Option<bool>>,
}

impl Commands {
    /// The queue was given, with 2^`log2` slots.
    pub fn start(&mut self, log2: u64) {
        let bits = u32::try_from(log2).unwrap_or(u32::MAX).saturating_add(1);
        *self = Self { mask: 1u32.checked_shl(bits).map_or(u32::MAX, |size| size - 1), ..Self::default() };
    }

    /// The unit stands at this index. `None` where it cannot; otherwise the count, if a CMD_SYNC is done now.
    pub fn at(&mut self, index: u64, wrap: u64) -> Option<Option<u32>> {
        let slots = u64::from(self.mask / 2) + 1;
        (index < slots && wrap < 2).then_some(())?;
        let at = u32::try_from(index + wrap * slots).ok()?;
        let running = self.running.take();
        if at == self.done & self.mask {
            // It has not moved: there was no command, or it was refused.
            return matches!(running, None | Some(Some(_))).then_some(None);
        }
        let sync = running??;
        self.done = self.done.wrapping_add(1);
        (at == self.done & self.mask).then_some(sync.then_some(self.done))
    }

    /// It begins with the command there.
    pub fn begin(&mut self) {
        self.running = Some(None);
    }

    /// What the command is. `None` where there is none.
    pub fn name(&mut self, sync: bool) -> Option<()> {
        self.running?.is_none().then(|| self.running = Some(Some(sync)))
    }
}

#[cfg(test)]
mod tests {
    use super::Commands;

    fn queue() -> Commands {
        let mut queue = Commands::default();
        queue.start(1);
        queue
    }

    /// Carries out one command.
    fn run(queue: &mut Commands, sync: bool, (index, wrap): (u64, u64)) -> Option<Option<u32>> {
        queue.begin();
        queue.name(sync)?;
        queue.at(index, wrap)
    }

    #[test]
    fn counts_on_past_the_wrap() {
        let mut queue = queue();
        assert_eq!(queue.at(0, 0), Some(None), "empty");
        assert_eq!(run(&mut queue, false, (1, 0)), Some(None));
        assert_eq!(run(&mut queue, true, (0, 1)), Some(Some(2)));
        assert_eq!(run(&mut queue, true, (1, 1)), Some(Some(3)));
        assert_eq!(run(&mut queue, true, (0, 0)), Some(Some(4)));
        assert_eq!(run(&mut queue, true, (1, 0)), Some(Some(5)));
        queue.start(1);
        assert_eq!(run(&mut queue, true, (1, 0)), Some(Some(1)), "a new queue");
    }

    #[test]
    fn a_refused_command_is_not_done() {
        let mut queue = queue();
        assert_eq!(run(&mut queue, false, (0, 0)), Some(None));
        assert_eq!(run(&mut queue, true, (1, 0)), Some(Some(1)), "what replaces it");
    }

    #[test]
    fn lines_that_are_missing() {
        assert_eq!(queue().at(1, 0), None, "no command");
        assert_eq!(run(&mut queue(), true, (0, 1)), None, "two steps");
        assert_eq!(queue().at(2, 0), None, "no such slot");
        assert_eq!(queue().name(true), None, "no place");
        let mut unnamed = queue();
        unnamed.begin();
        assert_eq!(unnamed.at(1, 0), None);
        let mut twice = queue();
        twice.begin();
        assert_eq!((twice.name(true), twice.name(true)), (Some(()), None));
    }
}
