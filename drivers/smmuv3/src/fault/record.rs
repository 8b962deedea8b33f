//! One event, and what it says in the core's terms.

use crate::spec::event::{Class, EVENT_WORDS, EventWord0, EventWord1, Input, Meaning, Other, PageHint, meaning};
use core::fmt;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{AccessKind, Fault, Pasid, Stream, StreamId};

/// C_BAD_SUBSTREAMID: the one event that always has a substream id, and no flag for it (section 7.3.9).
const BAD_SUBSTREAM: u8 = 0x08;

/// An event as the unit recorded it (section 7.3): all that [`Fault`] tells, and what only this hardware knows.
///
/// One event may stand for several accesses that were alike (section 7.3.1), but never for stalled ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventRecord {
    words: [u64; EVENT_WORDS],
    /// The stall, if any, is over.
    over: bool,
}

impl EventRecord {
    /// The event in these words.
    pub const fn new(words: [u64; EVENT_WORDS]) -> Self {
        Self { words, over: false }
    }

    /// The same, of a stream that has left since: nothing waits any more.
    pub(super) const fn ended(self, over: bool) -> Self {
        Self { over, ..self }
    }

    /// As it was recorded.
    pub const fn words(&self) -> [u64; EVENT_WORDS] {
        self.words
    }

    /// Event number.
    pub fn number(&self) -> u8 {
        self.word0().number()
    }

    /// Who caused it.
    pub fn stream(&self) -> Stream {
        let word0 = self.word0();
        let has_substream = word0.substream_valid() || word0.number() == BAD_SUBSTREAM;
        let pasid = if has_substream { Pasid::new(word0.substream()) } else { None };
        Stream { id: StreamId::new(word0.stream()), pasid }
    }

    /// S2: stage 2 refused, where the event says which stage.
    pub fn stage2(&self) -> bool {
        self.has_stage() && self.word1().stage2()
    }

    /// CLASS: what the address was that could not be translated; `None` where the event is of none.
    pub fn class(&self) -> Option<Class> {
        self.has_stage().then(|| Class::from_bits(self.word1().class()))
    }

    /// The address that was asked for, as the event has it.
    pub fn input(&self) -> Option<Iova> {
        let [_, _, address, _] = self.words;
        match self.meaning().input {
            Input::Nothing => None,
            Input::Page => Some(Iova::new(address & !0xfff)),
            Input::Access | Input::Request => Some(Iova::new(address)),
        }
    }

    /// Where stage 1 led, where stage 2 refused: a page of 4 KiB.
    pub fn intermediate(&self) -> Option<u64> {
        let [.., other] = self.words;
        (self.meaning().other == Other::Intermediate && self.stage2()).then_some(other & 0x00ff_ffff_ffff_f000)
    }

    /// What the unit tried to read.
    pub fn fetched(&self) -> Option<PhysAddr> {
        let [.., other] = self.words;
        (self.meaning().other == Other::Fetched).then_some(PhysAddr::new(other & 0x00ff_ffff_ffff_fff8))
    }

    /// PnU: the access was a privileged one.
    pub fn privileged(&self) -> bool {
        self.meaning().input == Input::Access && self.word1().privileged()
    }

    /// The tag of the access, where it waits for an answer.
    pub fn stalled(&self) -> Option<u16> {
        let word1 = self.word1();
        (self.meaning().stalls && word1.stall() && !self.over).then_some(word1.stall_tag())
    }

    /// The same in the core's terms. An event that tells of no single access has address 0 with granularity 0, and is called a
    /// write.
    pub fn fault(&self) -> Fault {
        let meaning = self.meaning();
        Fault {
            stream: self.stream(),
            iova: self.input().unwrap_or(Iova::new(0)),
            granule: match meaning.input {
                Input::Nothing => 0,
                Input::Page => 4096,
                Input::Access | Input::Request => 1,
            },
            access: self.access(meaning.input),
            kind: meaning.kind,
            code: self.number().into(),
            text: meaning.text,
            stalled: self.stalled(),
        }
    }

    fn access(&self, input: Input) -> AccessKind {
        let (word1, hint) = (self.word1(), PageHint::from(self.words[1]));
        match input {
            Input::Nothing => AccessKind::Write,
            Input::Access => match (word1.read(), word1.instruction()) {
                (true, true) => AccessKind::Execute,
                (true, false) => AccessKind::Read,
                (false, _) => AccessKind::Write,
            },
            // Those of PCIe are always for reads at least.
            Input::Request => AccessKind::Read,
            Input::Page if hint.write() || hint.privileged_write() => AccessKind::Write,
            Input::Page if hint.read() || hint.privileged_read() => AccessKind::Read,
            Input::Page if hint.execute() || hint.privileged_execute() => AccessKind::Execute,
            Input::Page => AccessKind::Read,
        }
    }

    /// S2 and CLASS have a meaning in faults of a translation only.
    fn has_stage(&self) -> bool {
        matches!(self.number(), 0x0b | 0x10..=0x13)
    }

    fn meaning(&self) -> Meaning {
        let word1 = self.word1();
        meaning(self.number(), word1.stage2(), Class::from_bits(word1.class()))
    }

    fn word0(&self) -> EventWord0 {
        EventWord0::from(self.words[0])
    }

    fn word1(&self) -> EventWord1 {
        EventWord1::from(self.words[1])
    }
}

/// The fault, and behind it the addresses that only this hardware tells; then the words.
impl fmt::Display for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault())?;
        if let Some(class) = self.class() {
            let stage = if self.stage2() { 2 } else { 1 };
            write!(f, ", stage {stage}, class {class:?}")?;
        }
        if let Some(ipa) = self.intermediate() {
            write!(f, ", intermediate {ipa:#x}")?;
        }
        if let Some(at) = self.fetched() {
            let gpcf = if self.word1().protected() { ", refused by granule protection" } else { "" };
            write!(f, ", fetched {at}{gpcf}")?;
        }
        if self.privileged() {
            f.write_str(", privileged")?;
        }
        let [one, two, three, four] = self.words;
        write!(f, " [{one:#018x} {two:#018x} {three:#018x} {four:#018x}]")
    }
}

impl fmt::Debug for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
