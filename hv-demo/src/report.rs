//! Results: a line for people on the console, and a record for the witness, one each a check.
//!
//! A record is a JSON object in one line. Its `kind` says which fields have a meaning; all checks have `check`,
//! `stream`, `pasid`, `iova`, `length`, `expected`, `seen`, `fault` and `passed`, null where they do not apply. Numbers that are
//! addresses, ids or codes are strings in hexadecimal. `begin` and `end` are status data of wait descriptors (markers)
//! that were complete right before and right after: what the check is about happened in between, and nothing else.
//!
//! | kind | what it is |
//! |---|---|
//! | `start` | the scenario begins: `scenario` |
//! | `dma` | one transfer of a device; `frames` are where it may have gone |
//! | `unmap` | a range was taken away; `frames` are what was behind it; `end` is the wait of its own flush |
//! | `forget` | the same of a guest's own stage 1, by the guest's own request |
//! | `attach`, `detach` | a stream was given a domain, or blocked |
//! | `state` | something looked at without any DMA |
//! | `end` | the scenario ended by itself: `passed`, `failed` |

use core::fmt::{self, Display};
use iommu_core::addr::PhysExtent;
use iommu_core::hw::{Fault, Pasid, Stream};

/// Checks passed and failed.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
    /// QEMU's trace tells nothing of what is checked: each record is the demo's own word.
    untraced: bool,
}

/// Everything about one check but its outcome.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// What kind of record it is.
    pub kind: &'static str,
    /// The check's name. Without quotes and backslashes: it stands in a record as it is.
    pub check: &'a str,
    /// Whose DMA, as the IOMMU sees it.
    pub stream: Option<Stream>,
    /// Where.
    pub iova: Option<u64>,
    /// How much, in bytes.
    pub length: Option<u64>,
    /// `read` or `write`, as the device does it to memory.
    pub access: Option<&'static str>,
    /// The physical memory concerned.
    pub frames: &'a [PhysExtent],
    /// The markers around.
    pub markers: Option<(u32, u32)>,
}

impl<'a> Entry<'a> {
    /// A check of kind `kind` about nothing in particular.
    pub const fn new(kind: &'static str, check: &'a str) -> Self {
        Self { kind, check, stream: None, iova: None, length: None, access: None, frames: &[], markers: None }
    }
}

impl Report {
    /// Begins a scenario.
    pub fn start(scenario: &str) -> Self {
        println!("=== scenario {scenario}");
        record!(r#"{{"kind":"start","scenario":"{scenario}"}}"#);
        Self::default()
    }

    /// Records one check; it passes where `seen` is what was `expected`.
    pub fn check<T: PartialEq + Display>(&mut self, entry: &Entry<'_>, expected: T, seen: T, fault: Option<&Fault>) {
        let passed = expected == seen;
        if passed {
            self.passed += 1;
            println!("  ok      {}: {expected}", entry.check);
        } else {
            self.failed += 1;
            println!("  FAILED  {}: expected {expected}, seen {seen}", entry.check);
        }
        // Markers are places in the trace.
        let (kind, markers) = if self.untraced { ("state", None) } else { (entry.kind, entry.markers) };
        record!(
            concat!(
                r#"{{"kind":"{}","check":"{}","stream":{},"pasid":{},"iova":{},"length":{},"access":{},"#,
                r#""expected":"{}","seen":"{}","fault":{},"frames":{},"begin":{},"end":{},"passed":{}}}"#
            ),
            kind,
            entry.check,
            Json(entry.stream.map(|stream| Hex(stream.id.get().into()))),
            Json(entry.stream.and_then(|stream| stream.pasid).map(of_pasid)),
            Json(entry.iova.map(Hex)),
            Json(entry.length),
            Json(entry.access.map(Text)),
            expected,
            seen,
            Json(fault.map(FaultRecord)),
            Extents(entry.frames),
            Json(markers.map(|(begin, _)| begin)),
            Json(markers.map(|(_, end)| end)),
            passed,
        );
    }

    /// From now on what is checked happens in software, and no trace tells of it: records say no more than that the demo saw
    /// what it expected.
    pub fn without_trace(&mut self) {
        self.untraced = true;
    }

    /// Records a look at some state.
    pub fn state<T: PartialEq + Display>(&mut self, check: &str, expected: T, seen: T) {
        self.check(&Entry::new("state", check), expected, seen, None);
    }

    /// Records something that could not even be tried.
    pub fn trouble(&mut self, check: &str, what: &dyn Display) {
        self.failed += 1;
        println!("  FAILED  {check}: {what}");
        record!(r#"{{"kind":"state","check":"{check}","expected":"done","seen":"{what}","passed":false}}"#);
    }

    /// Ends the scenario; `true` where every check passed and there was at least one.
    pub fn end(self) -> bool {
        println!("=== {} passed, {} failed", self.passed, self.failed);
        record!(r#"{{"kind":"end","passed":{},"failed":{}}}"#, self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}

/// A value as JSON, or null.
struct Json<T>(Option<T>);

impl<T: Display> Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// A number as a hexadecimal JSON string.
struct Hex(u64);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:#x}\"", self.0)
    }
}

fn of_pasid(pasid: Pasid) -> Hex {
    Hex(pasid.get().into())
}

/// A word as a JSON string.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// A fault as a JSON object.
struct FaultRecord<'a>(&'a Fault);

impl Display for FaultRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { stream, iova, code, access, .. } = self.0;
        write!(
            f,
            r#"{{"stream":{},"pasid":{},"iova":{},"code":{},"access":"{access}"}}"#,
            Hex(stream.id.get().into()),
            Json(stream.pasid.map(of_pasid)),
            Hex(iova.get()),
            Hex((*code).into()),
        )
    }
}

/// Runs of memory as a JSON array.
struct Extents<'a>(&'a [PhysExtent]);

impl Display for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, extent) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, r#"{comma}{{"phys":{},"length":{}}}"#, Hex(extent.start.get()), extent.len)?;
        }
        f.write_str("]")
    }
}
