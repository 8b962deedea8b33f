//! Which queue a unit's faults go to.
//!
//! Routes are kept twice. Whoever changes them has at most one of the tables at a time, so that an interrupt handler
//! always gets at the other, whatever it interrupts; and once both are changed, and were waited for, no reporter is left
//! that has found the route as it was before.

use super::TRIES;
use super::port::Port;
use super::queue::{FaultQueue, QueueInner};
use crate::error::Error;
use crate::hw::{Fault, PageRequest, PageResponse, ResponseCode, Stream, Unit};
use crate::sync::{Mutex, Rank, RwLock, relax};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_alloc::{OutOfMemory, Shared};

/// Where a stream leads.
#[derive(Clone)]
struct Route {
    queue: Shared<QueueInner>,
    port: Shared<Port>,
    /// Stands in for the port once the stream leads elsewhere, for which there must not be too little memory.
    spare: Shared<Port>,
}

impl Route {
    /// To `queue`, from what stood there before.
    fn to(&self, queue: &FaultQueue) -> Self {
        Self { queue: queue.0.clone(), port: self.spare.clone(), spare: self.port.clone() }
    }
}

/// Routes in the order of their streams.
struct Table(Vec<Route>);

impl Table {
    fn position(&self, stream: Stream) -> Result<usize, usize> {
        self.0.binary_search_by_key(&stream, |route| route.port.stream)
    }

    fn get(&self, stream: Stream) -> Option<&Route> {
        self.0.get(self.position(stream).ok()?)
    }

    /// Adds `route`, for which there is memory, or puts it in the place of the one that it returns.
    fn put(&mut self, route: Route) -> Option<Route> {
        match self.position(route.port.stream) {
            Ok(at) => self.0.get_mut(at).map(|old| core::mem::replace(old, route)),
            Err(at) => {
                self.0.insert(at, route);
                None
            }
        }
    }

    fn remove(&mut self, stream: Stream) -> Option<Route> {
        let at = self.position(stream).ok()?;
        Some(self.0.remove(at))
    }
}

pub(crate) struct RouterInner {
    unit: Arc<dyn Unit>,
    /// Held by whoever changes the tables, so that both change in the same order.
    changes: Mutex<()>,
    tables: [RwLock<Table>; 2],
    missed: AtomicU64,
}

impl RouterInner {
    /// For reporters: works on a table, or counts that it could not be had.
    fn report<T>(&self, work: impl FnOnce(&Table) -> T) -> Option<T> {
        for _ in 0..TRIES {
            if let Some(table) = self.tables.iter().find_map(|table| table.try_read()) {
                return Some(work(&table));
            }
            core::hint::spin_loop();
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for RouterInner {
    fn drop(&mut self) {
        // Both have the same.
        let [one, _] = &mut self.tables;
        for route in core::mem::take(&mut one.get_mut().0) {
            route.queue.close(&route.port);
        }
    }
}

/// Which queue a unit's faults go to. One for each unit. A handle: clones are the same router.
///
/// A fault or request of a stream goes to the queue of exactly that stream. With the last handle all routes go.
#[derive(Clone)]
pub struct FaultRouter(Shared<RouterInner>);

impl FaultRouter {
    /// A router for `unit`, without routes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(unit: Arc<dyn Unit>) -> Result<Self, Error> {
        let table = || RwLock::new(Rank::Faults, Table(Vec::new()));
        let (changes, tables) = (Mutex::new(Rank::Routes, ()), [table(), table()]);
        Ok(Self(Shared::try_new(RouterInner { unit, changes, tables, missed: AtomicU64::new(0) })?))
    }

    /// Bytes of memory that a route takes at most.
    pub(crate) const fn route_cost() -> u64 {
        // Two ports, each with the count of its owners, and a place in each table.
        2 * (size_of::<Port>() + size_of::<usize>() + size_of::<Route>()) as u64
    }

    /// Whose faults it takes.
    pub(crate) fn unit(&self) -> &Arc<dyn Unit> {
        &self.0.unit
    }

    /// For interrupt handlers: takes each fault of [`Unit::report_faults`] to the owner of its stream. False where it has
    /// none, so that nobody but the caller knows of the fault; a fault that the owner's queue has no room for counts as
    /// taken there.
    ///
    /// An access that is [stalled](Fault::stalled) becomes a group of one page request, whose answer it gets. Where that can
    /// not be delivered it is refused by [`Unit::respond`], from within this call: whoever calls this in an interrupt handler
    /// needs a driver that can answer in one.
    ///
    /// A record does not say when it was made. One that hardware still holds when its stream is led elsewhere goes to the new
    /// owner: where two must not know of each other, all faults are reported in between.
    pub fn fault(&self, fault: &Fault) -> bool {
        if let Some(request) = fault.request() {
            return self.ask(&request);
        }
        let route = |table: &Table| table.get(fault.stream).map(|route| route.queue.fault(fault)).is_some();
        self.0.report(route).unwrap_or(false)
    }

    /// For interrupt handlers: takes a page request to the owner of its stream. The requests of a unit are handed over
    /// one after the other, in the order in which the unit has them.
    ///
    /// Where the group can not be delivered it is answered INVALID by [`Unit::respond`], from within this call, once its
    /// last request is handed over. Whoever calls this in an interrupt handler needs a driver that can answer in one.
    pub fn page_request(&self, request: &PageRequest) {
        self.ask(request);
    }

    /// A page request; whether its stream has an owner.
    fn ask(&self, request: &PageRequest) -> bool {
        let route = |table: &Table| {
            let route = table.get(request.stream);
            (route.is_some(), route.map_or(request.last, |route| route.queue.request(&route.port, request)))
        };
        let (owned, refused) = self.0.report(route).unwrap_or((false, request.last));
        if refused {
            let (stream, group, code) = (request.stream, request.group, ResponseCode::Invalid);
            // The owner, if there is one, finds that an event is missing; the device waits until it is reset.
            let _ = self.0.unit.respond(&PageResponse { stream, group, code });
        }
        owned
    }

    /// Faults and page requests for which no route could be looked up, as others were being changed at each of many
    /// tries: one CPU would have to be kept from going on in the middle of a change, and another one to begin the next. No
    /// owner is told, and a group may be delivered without such a request. Wraps.
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }

    /// From now on what happens to `stream` goes to `queue`. Where it led to another, or to the same, what that holds of
    /// the stream's page requests is answered INVALID; what the device has not ended is refused once it does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; never where the stream led anywhere before.
    pub(crate) fn route(&self, stream: Stream, queue: &FaultQueue) -> Result<(), Error> {
        let [one, other] = &self.0.tables;
        let (old, same) = loop {
            let is_new = one.read().get(stream).is_none();
            let fresh = if is_new { Some(self.fresh(stream, queue)?) } else { None };
            let changes = self.0.changes.lock();
            let old = one.read().get(stream).cloned();
            let route = match (&old, fresh) {
                (Some(old), _) => old.to(queue),
                (None, Some(fresh)) => {
                    for table in [one, other] {
                        table.write().0.try_reserve(1).map_err(|_| OutOfMemory)?;
                    }
                    fresh
                }
                // It was unrouted just now.
                (None, None) => continue,
            };
            if !route.port.start() {
                // Another change of the same stream is at closing it, which ends.
                drop(changes);
                relax();
                continue;
            }
            one.write().put(route.clone());
            let same = other.write().put(route.clone());
            match &old {
                Some(old) => old.queue.hand_over(&old.port, &route.port),
                None => route.port.begin(None, |_| false),
            }
            break (old, same);
        };
        drop(same);
        if let Some(old) = old {
            old.queue.close(&old.port);
        }
        Ok(())
    }

    fn fresh(&self, stream: Stream, queue: &FaultQueue) -> Result<Route, OutOfMemory> {
        let port = || Shared::try_new(Port::new(self.0.unit.clone(), stream));
        Ok(Route { queue: queue.0.clone(), port: port()?, spare: port()? })
    }

    /// What happens to `stream` is nobody's any more; the groups of page requests that were not answered are answered
    /// INVALID. Whoever calls this has made sure that no request of the stream is on its way: one that ends a group
    /// begun before is taken for a group of its own once the stream leads somewhere again. Neither takes memory nor fails.
    pub(crate) fn unroute(&self, stream: Stream) {
        let [one, other] = &self.0.tables;
        let (old, same) = {
            let _changes = self.0.changes.lock();
            let old = one.write().remove(stream);
            (old, other.write().remove(stream))
        };
        drop(same);
        if let Some(old) = old {
            old.queue.close(&old.port);
        }
    }

    /// Where the ports of `stream` are: the one in use, the other.
    #[cfg(test)]
    pub(super) fn ports(&self, stream: Stream) -> (*const Port, *const Port) {
        let table = self.0.tables[0].read();
        let route = table.get(stream).expect("routed");
        (&*route.port, &*route.spare)
    }

    /// Runs `during` as if an interrupt came in the middle of a change of the table `which`.
    #[cfg(test)]
    pub(super) fn interrupted(&self, which: usize, during: impl FnOnce()) {
        let _changes = self.0.changes.lock();
        let _table = self.0.tables[which].write();
        during();
    }
}
