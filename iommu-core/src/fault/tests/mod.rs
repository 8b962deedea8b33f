//! Faults and page requests, from report to answer.

mod faults;
mod page_requests;
mod races;
mod routes;
mod stalls;

extern crate std;

use super::port::Port;
use super::*;
use crate::addr::Iova;
use crate::error::Error;
use crate::hw::{
    AccessKind, Domain, DomainConfig, FaultKind, FaultReport, HwError, PageResponse, Pasid, Prot, ResponseCode, Stream,
    StreamId, Target, Transition, Unit, UnitCapabilities, Wait,
};
use crate::test_support::platform;
use alloc::boxed::Box;
use alloc::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A unit that writes down how it was answered.
#[derive(Default)]
struct Recorder {
    answers: Mutex<Vec<PageResponse>>,
    /// Does not confirm answers.
    dead: AtomicBool,
    /// Is called by the handler of an interrupt, which has stopped whoever holds locks.
    interrupt: AtomicBool,
}

impl Recorder {
    /// Takes what was answered since the last call.
    fn answers(&self) -> Vec<(Stream, u16, ResponseCode)> {
        let answers = core::mem::take(&mut *self.answers.lock().unwrap());
        answers.into_iter().map(|it| (it.stream, it.group, it.code)).collect()
    }
}

impl Unit for Recorder {
    fn capabilities(&self) -> UnitCapabilities {
        UnitCapabilities::default()
    }

    fn create_domain(&self, _: &DomainConfig) -> Result<Box<dyn Domain>, HwError> {
        Err(HwError::OutOfMemory)
    }

    fn attach(&self, _: Stream, _: Target<'_>) -> Result<Transition, HwError> {
        Ok(Transition::Hitless)
    }

    fn respond(&self, response: &PageResponse) -> Result<(), HwError> {
        if !self.interrupt.load(Ordering::Relaxed) {
            crate::sync::assert_none_held();
        }
        self.answers.lock().unwrap().push(*response);
        if self.dead.load(Ordering::Relaxed) { Err(HwError::TimedOut(Wait::Completion)) } else { Ok(()) }
    }

    fn report_faults(&self, _: &mut dyn FnMut(&Fault)) -> FaultReport {
        FaultReport::default()
    }
}

/// A unit, its router, and a queue.
fn setup(depth: usize) -> (Arc<Recorder>, FaultRouter, FaultQueue) {
    platform();
    let unit = Arc::new(Recorder::default());
    let router = FaultRouter::new(unit.clone()).unwrap();
    (unit, router, FaultQueue::new(depth).unwrap())
}

fn function(id: u32) -> Stream {
    Stream::function(StreamId::new(id))
}

fn part(id: u32, pasid: u32) -> Stream {
    Stream::with_pasid(StreamId::new(id), Pasid::new(pasid).unwrap())
}

/// A fault of `stream` that can be told from others by `number`.
fn fault(stream: Stream, number: u64) -> Fault {
    Fault {
        stream,
        iova: Iova::new(number),
        granule: 1,
        access: AccessKind::Write,
        kind: FaultKind::Address,
        code: 0,
        text: "",
        stalled: None,
    }
}

fn request(stream: Stream, group: u16, page: u64, last: bool) -> PageRequest {
    PageRequest { stream, iova: Iova::new(page << 12), prot: Prot::READ_WRITE, group, last }
}

/// What was read of a fault: sequence, whether something is missing, number.
fn read_fault(queue: &FaultQueue) -> Option<(u32, bool, u64)> {
    let record = queue.read().unwrap()?;
    match record.event {
        Event::Fault(fault) => Some((record.sequence, record.lost, fault.iova.get())),
        other => panic!("{other:?}"),
    }
}

/// What was read of a group: cookie, its number, its pages.
fn read_group(queue: &FaultQueue) -> Option<(Cookie, u16, Vec<u64>)> {
    match queue.read().unwrap()?.event {
        Event::PageRequests { cookie, requests } => {
            let number = requests[0].group;
            assert!(requests.iter().all(|it| it.group == number && it.stream == requests[0].stream));
            let (last, others) = requests.split_last().unwrap();
            assert!(last.last && others.iter().all(|it| !it.last), "a group is whole");
            Some((cookie, number, requests.iter().map(|it| it.iova.get() >> 12).collect()))
        }
        other => panic!("{other:?}"),
    }
}

fn lost(sequence: u32) -> Option<Record> {
    Some(Record { sequence, lost: true, event: Event::Lost })
}

const INVALID: ResponseCode = ResponseCode::Invalid;
const SUCCESS: ResponseCode = ResponseCode::Success;
