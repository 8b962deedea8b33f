//! Objects of all kinds, made, looked at and ended.

mod ends;
mod owner;
mod random;

extern crate std;

use super::*;
use crate::addr::{PhysAddr, PhysExtent};
use crate::fault::FaultQueue;
use crate::hwpt::Hwpt;
use crate::ioas::Ioas;
use crate::ioas::tests::{Hardware, hwpt};
use crate::pages::{Memory, MemoryError, Pages};
use crate::pasid::PasidSet;
use crate::test_support::platform;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex as StdMutex;
use std::vec::Vec;

fn account(limits: Amounts) -> Account {
    Account::new(limits).unwrap()
}

fn context(account: Option<&Account>) -> Context {
    platform();
    Context::new(account, ContextConfig { patience: 100, ..ContextConfig::default() })
}

/// Writes down when it goes.
struct Noted {
    name: u32,
    gone: Arc<StdMutex<Vec<u32>>>,
}

impl Memory for Noted {
    fn len(&self) -> u64 {
        4096
    }

    fn pin(&self, extent: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        extent(PhysExtent::new(PhysAddr::new(0), 4096))
    }

    fn unpin(&self) {}
}

impl Drop for Noted {
    fn drop(&mut self) {
        assert_none_held();
        self.gone.lock().unwrap().push(self.name);
    }
}

/// Objects that write down when they go.
#[derive(Default)]
struct Notes(Arc<StdMutex<Vec<u32>>>);

impl Notes {
    fn pages(&self, name: u32) -> Result<Pages, Error> {
        Pages::new(Arc::new(Noted { name, gone: self.0.clone() }), None)
    }

    fn gone(&self) -> Vec<u32> {
        self.0.lock().unwrap().clone()
    }
}

fn new_ioas(context: &Context) -> Result<ObjectId, Error> {
    context.create(&[], || Ioas::new(context.ioas_config()))
}

fn new_hwpt(context: &Context, ioas: ObjectId, hardware: &Arc<Hardware>) -> Result<ObjectId, Error> {
    context.create(&[ioas], || hwpt(&*context.get::<Ioas>(ioas)?, hardware))
}

fn is_busy<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Busy))
}

fn is_gone(context: &Context, id: ObjectId) -> bool {
    context.kind(id) == Err(Error::NoSuchObject) && context.destroy(id) == Err(Error::NoSuchObject)
}

#[test]
fn an_id_is_never_reused_and_never_zero() {
    let context = context(None);
    let notes = Notes::default();
    let mut seen = Vec::new();
    for name in 0..10 {
        let id = context.create(&[], || notes.pages(name)).unwrap();
        assert!(id.raw() != 0 && !seen.contains(&id));
        assert_eq!(ObjectId::from_raw(id.raw()), Some(id));
        assert_eq!(context.get::<Pages>(id).unwrap().len(), 4096);
        assert!(seen.iter().all(|&old| is_gone(&context, old)));
        context.destroy(id).unwrap();
        assert!(is_gone(&context, id));
        seen.push(id);
    }
    assert_eq!(ObjectId::from_raw(0), None);
    for raw in [1, u64::MAX, 1 << 32 | 77, u64::from(u32::MAX)] {
        assert!(is_gone(&context, ObjectId::from_raw(raw).unwrap()), "{raw:#x}");
    }
    assert_eq!((notes.gone().len(), context.table.lock().slots()), (10, 1));
}

#[test]
fn a_slot_whose_generations_are_used_up_is_used_no_more() {
    let context = context(None);
    let notes = Notes::default();
    let first = context.create(&[], || notes.pages(0)).unwrap();
    context.destroy(first).unwrap();
    context.table.lock().set_generation(first.index(), u32::MAX);
    let last = context.create(&[], || notes.pages(1)).unwrap();
    assert_eq!((last.index(), last.generation()), (first.index(), u32::MAX));
    context.destroy(last).unwrap();
    let other = context.create(&[], || notes.pages(2)).unwrap();
    assert_ne!(other.index(), last.index());
    assert!(is_gone(&context, first) && is_gone(&context, last));
    assert_eq!(context.len(), 1);
}

#[test]
fn kinds_are_not_mistaken_for_one_another() {
    let context = context(None);
    let ioas = new_ioas(&context).unwrap();
    let queue = context.create(&[], || FaultQueue::new(8)).unwrap();
    assert_eq!(context.get::<Hwpt>(ioas).err(), Some(Error::WrongKind));
    assert_eq!(context.get::<Ioas>(queue).err(), Some(Error::WrongKind));
    assert_eq!((context.kind(ioas), context.kind(queue)), (Ok(ObjectKind::Ioas), Ok(ObjectKind::FaultQueue)));
    let mut found = Vec::new();
    context.for_each(&mut |id, kind| found.push((id, kind)));
    assert_eq!(found, [(ioas, ObjectKind::Ioas), (queue, ObjectKind::FaultQueue)]);
    assert_eq!(<PasidSet as Kind>::KIND, ObjectKind::PasidSet);
}

#[test]
fn what_is_half_made_is_not_seen() {
    let context = context(None);
    let notes = Notes::default();
    let base = context.create(&[], || notes.pages(0)).unwrap();
    let reservation = context.reserve::<Pages>(&[base]).unwrap();
    let id = reservation.id();
    assert!(is_gone(&context, id) && is_busy(context.destroy(base)));
    assert!(context.reserve::<Pages>(&[id]).is_err());
    assert_eq!(context.len(), 2);
    let mut found = 0;
    context.for_each(&mut |_, _| found += 1);
    assert_eq!(found, 1);
    drop(reservation);
    assert!(is_gone(&context, id) && context.len() == 1);

    // What fails to be made leaves nothing, neither here nor in what it depends on.
    assert_eq!(context.create::<Pages>(&[base], || Err(Error::BadMemory)), Err(Error::BadMemory));
    let reservation = context.reserve::<Pages>(&[base]).unwrap();
    let later = reservation.id();
    assert_ne!(later, id);
    assert_eq!(reservation.publish(notes.pages(1).unwrap()), Ok(later));
    assert_eq!(context.get::<Pages>(later).unwrap().len(), 4096);
    assert!(is_busy(context.destroy(base)));
    context.destroy(later).unwrap();
    context.destroy(base).unwrap();
    assert!(context.is_empty());
}

#[test]
fn an_object_stays_as_long_as_others_depend_on_it() {
    let context = context(None);
    let notes = Notes::default();
    let base: Vec<_> = (0..5).map(|name| context.create(&[], || notes.pages(name)).unwrap()).collect();
    let user = context.create(&base[..4], || notes.pages(10)).unwrap();
    let twice = context.create(&[base[0], base[0]], || notes.pages(11)).unwrap();
    assert!(matches!(context.create(&base, || notes.pages(12)), Err(Error::Invalid(_))));
    assert!(base[..4].iter().all(|&id| is_busy(context.destroy(id)) && is_busy(context.tombstone(id))));
    context.destroy(base[4]).unwrap();
    assert_eq!(context.create(&[base[3], base[4]], || notes.pages(13)), Err(Error::NoSuchObject));
    context.destroy(user).unwrap();
    assert!(is_busy(context.destroy(base[0])));
    assert!(base[1..4].iter().all(|&id| context.destroy(id).is_ok()));
    context.destroy(twice).unwrap();
    context.destroy(base[0]).unwrap();
    assert_eq!(notes.gone(), [4, 10, 1, 2, 3, 11, 0]);
}

#[test]
fn destroy_waits_for_short_term_references_but_not_for_ever() {
    let context = context(None);
    let notes = Notes::default();
    let id = context.create(&[], || notes.pages(0)).unwrap();
    let held = context.get::<Pages>(id).unwrap();
    assert!(is_busy(context.destroy(id)));
    assert_eq!((held.len(), context.get::<Pages>(id).is_ok()), (4096, true));
    drop(held);

    let patient = Context::new(None, ContextConfig { patience: u32::MAX, ..ContextConfig::default() });
    let id = patient.create(&[], || notes.pages(1)).unwrap();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let held = patient.get::<Pages>(id).unwrap();
        let other = scope.spawn(|| {
            patient.destroy(id).unwrap();
            assert!(ends.load(Ordering::SeqCst), "ended before the reference was gone");
        });
        // It can neither be had nor ended a second time meanwhile.
        while patient.get::<Pages>(id).is_ok() {
            std::thread::yield_now();
        }
        assert!(is_busy(patient.get::<Pages>(id)) && is_busy(patient.destroy(id)));
        assert!(is_busy(patient.create(&[id], || notes.pages(2))));
        ends.store(true, Ordering::SeqCst);
        drop(held);
        other.join().unwrap();
    });
    assert!(is_gone(&patient, id));
}

/// Looks, when it goes, whether what it depends on is still kept.
struct Looks(Arc<Context>, ObjectId);

impl Memory for Looks {
    fn len(&self) -> u64 {
        1
    }

    fn pin(&self, _: &mut dyn FnMut(PhysExtent) -> Result<(), MemoryError>) -> Result<(), MemoryError> {
        Err(MemoryError::Unsupported)
    }

    fn unpin(&self) {}
}

impl Drop for Looks {
    fn drop(&mut self) {
        assert!(is_busy(self.0.destroy(self.1)));
    }
}

#[test]
fn what_an_object_depends_on_outlives_it() {
    let context = Arc::new(context(None));
    let notes = Notes::default();
    let base = context.create(&[], || notes.pages(0)).unwrap();
    let looks = Arc::new(Looks(context.clone(), base));
    let user = context.create(&[base], move || Pages::new(looks, None)).unwrap();
    context.destroy(user).unwrap();
    context.destroy(base).unwrap();
}

#[test]
fn a_tombstone_keeps_its_place_until_the_context_closes() {
    let account = account(Amounts::of(Resource::Objects, 2));
    let context = context(Some(&account));
    let notes = Notes::default();
    let base = context.create(&[], || notes.pages(0)).unwrap();
    let dead = context.create(&[base], || notes.pages(1)).unwrap();
    context.tombstone(dead).unwrap();
    assert_eq!((notes.gone(), context.len(), account.usage().objects), (std::vec![1], 2, 2));
    assert!(is_gone(&context, dead) && context.tombstone(dead) == Err(Error::NoSuchObject));
    assert_eq!(context.create(&[], || notes.pages(2)), Err(Error::Quota(Resource::Objects)));
    assert!(is_busy(context.set_accounting(Accounting::PerAddressSpace)));
    context.destroy(base).unwrap();
    context.close().unwrap();
    assert_eq!((context.len(), account.usage()), (0, Amounts::NONE));
}

#[test]
fn nothing_is_made_in_a_closed_context() {
    let context = context(None);
    let notes = Notes::default();
    let base = context.create(&[], || notes.pages(7)).unwrap();
    let late = context.reserve::<Pages>(&[]).unwrap();
    assert!(is_busy(context.close()) && is_gone(&context, base));
    assert!(matches!(context.create(&[], || notes.pages(0)), Err(Error::Invalid(_))));
    assert!(matches!(late.publish(notes.pages(1).unwrap()), Err(Error::Invalid(_))));
    assert_eq!((notes.gone(), context.len()), (std::vec![7, 1], 0));
    context.close().unwrap();
}

#[test]
fn a_context_has_at_most_so_many_objects() {
    platform();
    let context = Context::new(None, ContextConfig { most_objects: 3, ..ContextConfig::default() });
    let notes = Notes::default();
    let ids: Vec<_> = (0..3).map(|name| context.create(&[], || notes.pages(name)).unwrap()).collect();
    assert_eq!(context.create(&[], || notes.pages(3)), Err(Error::Quota(Resource::Objects)));
    context.destroy(ids[1]).unwrap();
    let kept = context.reserve::<Pages>(&[]).unwrap();
    assert_eq!(context.create(&[], || notes.pages(4)), Err(Error::Quota(Resource::Objects)));
    drop(kept);
    context.create(&[], || notes.pages(5)).unwrap();
}
