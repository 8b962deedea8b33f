//! One record of the demo, as its `report` module documents them, checked for sense.

use crate::event::{Direction, Fault, Span, Stream};
use serde::Deserialize;

/// A record.
pub enum Record {
    /// The scenario of this name begins.
    Start(String),
    /// A check.
    Check(Check),
    /// The scenario ended by itself, with as many checks passed and failed.
    End(u64, u64),
}

/// A check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What should have come of it.
    pub expected: String,
    /// What the guest says came of it.
    pub seen: String,
    /// Whether the guest passed it.
    pub passed: bool,
    /// Status data of the waits right before and right after it.
    pub markers: Option<(u32, u32)>,
    /// What it is about.
    pub claim: Claim,
}

/// What a check is about.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Something looked at without any DMA.
    State,
    /// One transfer of a device.
    Dma(Transfer),
    /// A range was taken away from the domain of a stream.
    Unmap(Area),
    /// A guest took a range away from its own stage 1, and told of that.
    Forget(Area),
    /// A stream was given a domain.
    Attach(Stream),
    /// A stream was blocked.
    Detach(Stream),
}

/// A range of I/O virtual addresses of a stream and the memory behind it.
#[derive(Clone, Debug)]
pub struct Area {
    /// The stream.
    pub stream: Stream,
    /// The addresses.
    pub span: Span,
    /// The memory, in the order of the addresses.
    pub frames: Vec<Span>,
}

/// A transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Whose, where, and to or from which memory; no memory where it must be refused.
    pub area: Area,
    /// As the device does it to memory.
    pub direction: Direction,
    /// The fault as the guest read it from the unit.
    pub fault: Option<Fault>,
}

/// A record as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    kind: String,
    scenario: Option<String>,
    check: Option<String>,
    stream: Option<String>,
    pasid: Option<String>,
    iova: Option<String>,
    length: Option<u64>,
    access: Option<String>,
    expected: Option<String>,
    seen: Option<String>,
    fault: Option<RawFault>,
    #[serde(default)]
    frames: Vec<RawFrame>,
    begin: Option<u32>,
    end: Option<u32>,
    passed: Option<Passed>,
    failed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    stream: String,
    pasid: Option<String>,
    iova: String,
    code: String,
    access: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFrame {
    phys: String,
    length: u64,
}

/// `passed` is a verdict in a check and a number at the end.
#[derive(Deserialize)]
#[serde(untagged)]
enum Passed {
    Verdict(bool),
    Count(u64),
}

impl Record {
    /// The record in one line; the error says what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match (raw.kind.as_str(), &raw.passed) {
            ("start", None) => Ok(Self::Start(need(raw.scenario, "scenario")?)),
            ("end", Some(Passed::Count(passed))) => Ok(Self::End(*passed, need(raw.failed, "failed")?)),
            (_, Some(Passed::Verdict(passed))) => {
                let passed = *passed;
                Ok(Self::Check(raw.check(passed)?))
            }
            (kind, _) => Err(format!("a {kind} record with `passed` missing or of the wrong type")),
        }
    }
}

impl Raw {
    fn check(self, passed: bool) -> Result<Check, String> {
        let markers = match (self.begin, self.end) {
            (Some(begin), Some(end)) => Some((begin, end)),
            (None, None) => None,
            _ => return Err("one marker without the other".into()),
        };
        let claim = match self.kind.as_str() {
            "state" => Claim::State,
            "attach" => Claim::Attach(self.stream()?),
            "detach" => Claim::Detach(self.stream()?),
            "unmap" => Claim::Unmap(self.area()?),
            "forget" => Claim::Forget(self.area()?),
            "dma" => Claim::Dma(Transfer {
                area: self.area()?,
                direction: direction(self.access.as_deref().ok_or("no access")?)?,
                fault: self.fault.as_ref().map(RawFault::decode).transpose()?,
            }),
            kind => return Err(format!("unknown kind {kind}")),
        };
        let (expected, seen) = (need(self.expected, "expected")?, need(self.seen, "seen")?);
        if passed != (expected == seen) {
            return Err(format!("passed is {passed}, but it expected {expected} and saw {seen}"));
        }
        Ok(Check { name: need(self.check, "check")?, expected, seen, passed, markers, claim })
    }

    fn stream(&self) -> Result<Stream, String> {
        let id = hex(self.stream.as_deref().ok_or("no stream")?)?;
        let id = u32::try_from(id).map_err(|_| format!("stream {id:#x} is none"))?;
        Ok(Stream { id, pasid: pasid(self.pasid.as_deref())? })
    }

    fn area(&self) -> Result<Area, String> {
        let start = hex(self.iova.as_deref().ok_or("no iova")?)?;
        let length = self.length.ok_or("no length")?;
        let span = Span::from_len(start, length).ok_or("an empty range, or one beyond all addresses")?;
        let frame = |frame: &RawFrame| {
            let span = Span::from_len(hex(&frame.phys)?, frame.length);
            span.ok_or_else(|| format!("a frame of {} bytes at {}", frame.length, frame.phys))
        };
        let frames = self.frames.iter().map(frame).collect::<Result<Vec<_>, _>>()?;
        let total = frames.iter().fold(0u128, |total, frame| total + frame.len());
        if !frames.is_empty() && total != span.len() {
            return Err(format!("frames of {total:#x} bytes for {:#x}", span.len()));
        }
        Ok(Area { stream: self.stream()?, span, frames })
    }
}

impl RawFault {
    fn decode(&self) -> Result<Fault, String> {
        Ok(Fault {
            source: u32::try_from(hex(&self.stream)?).map_err(|_| "a fault's stream is none")?,
            address: hex(&self.iova)?,
            code: u32::try_from(hex(&self.code)?).map_err(|_| "a fault's code is none")?,
            direction: direction(&self.access)?,
            pasid: pasid(self.pasid.as_deref())?,
        })
    }
}

fn need<T>(value: Option<T>, name: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("no {name}"))
}

fn hex(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| format!("{text} is no number"))
}

/// A PASID of at most 20 bits.
fn pasid(text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    let value = u32::try_from(hex(text)?).ok().filter(|value| value >> 20 == 0);
    value.map(Some).ok_or_else(|| format!("{text} is no PASID"))
}

fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "read" => Ok(Direction::Read),
        "write" => Ok(Direction::Write),
        _ => Err(format!("{text} is neither read nor write")),
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
