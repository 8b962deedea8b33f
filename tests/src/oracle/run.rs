//! Sequences of operations.

use super::areas::{What, prot};
use super::devices::To;
use super::flat::Area;
use super::layout::Layout;
use super::op::Op;
use super::world::World;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// How a sequence ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// As it ought to.
    Same,
    /// With this message, in the operation of this number.
    Differs(usize, String),
}

impl World {
    /// Carries out one operation and compares everything.
    pub fn step(&mut self, op: Op) {
        self.steps += 1;
        let (layout, spaces) = (self.layout, self.spaces.len());
        match op {
            Op::Map { space, object, offset, len, at, prot: prot_number } => {
                let object = self.current(object);
                let whole = self.objects[object].len;
                // One in eight may reach past the end.
                let clip = |value: u64, end: u64| if prot_number % 8 == 7 { value } else { value % end };
                let offset = clip(layout.offset(offset), whole);
                let len = clip(layout.len(len), whole.saturating_sub(offset).saturating_add(1));
                self.map(space, What { object, offset, len, prot: prot(prot_number / 8), plain: false }, at);
            }
            Op::MapPlain { space, plain, at, prot: number } => {
                let first = layout.sources().len();
                let object = first + usize::from(plain) % (self.current.len() - first);
                let len = self.objects[object].len;
                self.map(space, What { object, offset: 0, len, prot: prot(number), plain: true }, at);
            }
            Op::Unmap { space, first, len } => {
                // From an area on, or from anywhere.
                let areas = &self.spaces[usize::from(space) % spaces].flat.areas;
                let area = areas.get(usize::from(first) % (2 * areas.len().max(1)));
                let first = area.map_or(layout.address(first), |area| area.first);
                let last = first.saturating_add(layout.len(len).saturating_mul(2).saturating_sub(1));
                self.unmap(space, first, last, false);
            }
            Op::UnmapExact { space, near } => {
                let areas = &self.spaces[usize::from(space) % spaces].flat.areas;
                let area = areas.get(usize::from(near) % areas.len().max(1)).copied();
                if let Some(area) = area {
                    self.unmap(space, area.first, area.last, false);
                }
            }
            Op::UnmapAll { space } => self.unmap(space, 0, u64::MAX, true),
            Op::Copy { from, near, skip, len, to, at, prot: number } => {
                self.copy(from, near, skip, len, to, at, prot(number));
            }
            Op::Split { space, at } => {
                let areas = &self.spaces[usize::from(space) % spaces].flat.areas;
                let area = areas.get(usize::from(at) % (areas.len() + 1)).copied();
                let into = |area: Area| area.first + layout.offset(at / 8) % area.len();
                self.split(space, area.map_or(layout.address(at), into));
            }
            Op::LargePages { space, on } => self.large_pages(space, on),
            Op::Allow { space, ranges, count } => {
                let range = |(first, len): (u16, u16)| {
                    let first = layout.address(first);
                    (first, first.saturating_add(layout.len(len).saturating_mul(2)))
                };
                let ranges: Vec<_> = ranges.into_iter().take(count.into()).map(range).collect();
                self.allow(space, &ranges);
            }
            Op::Reserve { space, first, len, owner } => {
                let first = layout.address(first);
                let last = first.saturating_add(layout.len(len).saturating_sub(1));
                self.reserve(space, first, last, u64::from(owner % 3));
            }
            Op::Release { space, owner } => self.release(space, u64::from(owner % 3)),
            Op::Register { object } => self.register(object),
            Op::Unregister { at } => self.unregister(at),
            Op::ChangeOwner { space, account } => self.change_owner(space, account),
            Op::ChangePagesOwner { object, account } => self.change_pages_owner(object, account),
            Op::Limit { account, pages } => self.limit(account, pages),
            other if layout == Layout::Small => self.step_hardware(other),
            _ => {}
        }
        self.check();
    }

    /// Operations that need hardware, accesses or sources.
    fn step_hardware(&mut self, op: Op) {
        match op {
            Op::Reclaim { space } => self.reclaim(space),
            Op::NewDomain { space, unit, slot } => self.new_domain(space, unit, slot),
            Op::DropDomain { slot, gently } => self.drop_domain(slot, gently),
            Op::Attach { device, slot, replace } => self.attach_to_slot(device, 0, slot, replace),
            Op::AttachPasid { device, pasid, slot, replace } => {
                self.attach_to_slot(device, 1 + usize::from(pasid) % 2, slot, replace);
            }
            Op::AttachAuto { device, space, replace } => {
                self.attach(device, 0, To::Auto(usize::from(space) % self.spaces.len()), replace);
            }
            Op::Detach { device } => self.detach(device, 0),
            Op::DetachPasid { device, pasid } => self.detach(device, 1 + usize::from(pasid) % 2),
            Op::AccessAttach { access, space, replace } => self.access_attach(access, space, replace),
            Op::AccessDetach { access } => self.access_detach(access),
            Op::Pin { access, near, skip, len, write } => self.pin(access, near, skip, len, write),
            Op::Unpin { pin } => self.unpin(pin),
            Op::Stubborn { access, on } => self.stubborn(access, on),
            Op::Read { access, near, skip, len } => self.transfer(access, near, skip, len, None),
            Op::Write { access, near, skip, len, value } => self.transfer(access, near, skip, len, Some(value)),
            Op::Lock { space, near, skip, len, contiguous } => self.lock(space, near, skip, len, contiguous),
            Op::Unlock { lock } => self.unlock(lock),
            Op::Revoke { object } => self.revoke(object),
            Op::Hardware { unit, fault } => self.hardware(unit, fault),
            Op::PinFails { object, on } => self.pin_fails(object, on),
            _ => {}
        }
    }

    fn attach_to_slot(&mut self, device: u8, place: usize, slot: u8, replace: bool) {
        if let (_, Some(number)) = self.in_slot(slot) {
            self.attach(device, place, To::Domain(number), replace);
        }
    }

    /// Takes everything down, and looks whether anything is left.
    pub fn finish(mut self) {
        let units = self.units.len() as u8;
        (0..units).for_each(|unit| self.hardware(unit, super::op::Fault::None));
        for access in 0..self.accesses.len() as u8 {
            self.stubborn(access, false);
            self.access_detach(access);
        }
        self.locks.clear();
        for space in &mut self.spaces {
            space.flat.areas.iter_mut().for_each(|area| area.locks = 0);
        }
        for space in 0..self.spaces.len() as u8 {
            self.unmap(space, 0, u64::MAX, true);
        }
        self.check();
        let machine = self.machine.clone();
        drop(self);
        machine.assert_clean();
    }
}

/// Runs `ops` in a new world. Panics where anything is not as it ought to be.
pub fn run(layout: Layout, ops: &[Op]) {
    let mut world = World::new(layout);
    ops.iter().for_each(|op| world.step(*op));
    world.finish();
}

thread_local! {
    /// Panics of this thread are outcomes, and not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn hush() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.try_with(Cell::get).unwrap_or(false) {
                loud(info);
            }
        }));
    });
}

/// As [`run`]; a panic is an outcome.
pub fn outcome(layout: Layout, ops: &[Op]) -> Outcome {
    hush();
    QUIET.set(true);
    let outcome = caught(layout, ops);
    QUIET.set(false);
    outcome
}

fn caught(layout: Layout, ops: &[Op]) -> Outcome {
    let mut at = 0;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(layout);
        for op in ops {
            world.step(*op);
            at += 1;
        }
        world.finish();
    }));
    match caught {
        Ok(()) => Outcome::Same,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Outcome::Differs(at, text.unwrap_or_default())
        }
    }
}

/// The fewest operations of `ops`, which fail, that fail too, as far as leaving some out finds them.
pub fn shrink(layout: Layout, ops: &[Op]) -> Vec<Op> {
    let fails = |ops: &[Op]| matches!(outcome(layout, ops), Outcome::Differs(..));
    let mut ops = ops.to_vec();
    if let Outcome::Differs(at, _) = outcome(layout, &ops) {
        ops.truncate(at + 1);
    }
    let mut part = ops.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut any = false;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + part).min(ops.len()));
            if fails(&fewer) {
                ops = fewer;
                any = true;
            } else {
                at += part;
            }
        }
        if !any || part > 1 {
            part /= 2;
        }
    }
    ops
}
