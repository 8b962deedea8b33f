//! Whether what several CPUs saw could have come about had they taken turns.

use crate::world::{PAGE, RW, World, areas};
use iommu_core::Error;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::Prot;
use iommu_core::ioas::Placement;
use iommu_tests::mock::range;
use iommu_tests::oracle::check::word;
use iommu_tests::oracle::flat::{Area, Flat, LARGEST};

/// One operation on the first address space. Addresses are in pages above `base`, numbers of memory 0 and 1 have a source,
/// 2 is a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Pages of a memory, from its first on.
    Map { at: u64, memory: usize, pages: u64 },
    /// The same, anywhere.
    MapAnywhere { memory: usize, pages: u64 },
    /// All areas in a range.
    Unmap { at: u64, pages: u64 },
    /// What stands in a range, elsewhere.
    Copy { from: u64, pages: u64, to: u64 },
    /// Cuts an area.
    Split { at: u64 },
}

/// What came of it: an address or a number of bytes, or the word for an error.
pub type Came = Result<u64, String>;

/// What lies in memory 2.
pub const RUN: PhysExtent = PhysExtent::new(PhysAddr::new(0x7000_0000), 4 * PAGE);

fn address(base: u64, page: u64) -> u64 {
    base + page * PAGE
}

/// Carries it out.
pub fn real(world: &World, base: u64, op: Op) -> Came {
    let ioas = &world.ioas[0];
    let at = |page| Placement::Fixed(Iova::new(address(base, page)));
    let map = |place, memory: usize, pages: u64| -> Result<u64, Error> {
        let iova = match world.pages.get(memory) {
            Some(source) => ioas.map(source, 0, pages * PAGE, place, RW),
            None => ioas.map_extents(&[PhysExtent::new(RUN.start, pages * PAGE)], place, RW),
        };
        iova.map(Iova::get)
    };
    let came = match op {
        Op::Map { at: page, memory, pages } => map(at(page), memory, pages),
        Op::MapAnywhere { memory, pages } => map(Placement::Anywhere, memory, pages),
        Op::Unmap { at: page, pages } => ioas.unmap(range(address(base, page), pages * PAGE)),
        Op::Copy { from, pages, to } => {
            ioas.copy(ioas, range(address(base, from), pages * PAGE), at(to), Prot::READ).map(Iova::get)
        }
        Op::Split { at: page } => ioas.split(Iova::new(address(base, page))).map(|()| 0),
    };
    came.map_err(word)
}

/// Part of what a copy found: memory, offset, length.
type Part = (usize, u64, u64);

/// Puts areas behind each other, marked: they take their addresses, and are not usable yet.
fn put(flat: &mut Flat, first: u64, parts: &[Part], prot: Prot, mark: u32) -> Came {
    let last = first + parts.iter().map(|part| part.2).sum::<u64>() - 1;
    if flat.is_kept(first, last) {
        return Err("Reserved".into());
    }
    if flat.touching(first, last).next().is_some() {
        return Err("Overlap".into());
    }
    let mut at = first;
    for (object, offset, len) in parts.iter().copied() {
        let (draining, revoked, pins, locks) = (false, false, 0, mark);
        flat.insert(Area { first: at, last: at + (len - 1), object, offset, prot, draining, revoked, pins, locks });
        at += len;
    }
    Ok(first)
}

/// What stands in a range; nothing where there is a gap.
fn parts(flat: &Flat, mut next: u64, end: u64) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while next < end {
        let area = flat.at(next).filter(|area| area.locks == 0)?;
        let len = (area.last + 1).min(end) - next;
        parts.push((area.object, area.offset + (next - area.first), len));
        next += len;
    }
    Some(parts)
}

/// One that takes turns with others.
#[derive(Clone)]
struct Turn<'d> {
    done: &'d [(Op, Came)],
    /// The first part of a copy was done: it has these.
    found: Option<Vec<Part>>,
    /// Marks the areas that it is making or unmapping: they take their addresses, and nobody can use them.
    mark: u32,
    unmapping: bool,
    mapping: bool,
}

/// Where `memory` begins, which decides where it goes anywhere; and the lowest address of all pages.
struct Fixed {
    base: u64,
    phys: Vec<u64>,
}

impl Fixed {
    fn new(world: &World, base: u64) -> Self {
        let phys = world.memories.iter().map(|memory| memory.phys(0).get()).chain([RUN.start.get()]).collect();
        Self { base, phys }
    }

    /// What ought to come of an operation, at once; an unmap leaves its areas marked.
    fn come(&self, flat: &mut Flat, op: Op, mark: u32) -> Came {
        match op {
            Op::Map { at, memory, pages } => put(flat, address(self.base, at), &[(memory, 0, pages * PAGE)], RW, mark),
            Op::MapAnywhere { memory, pages } => {
                let (len, phys) = (pages * PAGE, self.phys[memory]);
                // The largest page of the mock domains that are there is below that of none.
                let most = if flat.demands.is_empty() { LARGEST } else { 1 << 20 };
                let even = len.next_power_of_two().min(phys & phys.wrapping_neg()).min(most);
                let first = flat.hole(len, even).or_else(|| flat.hole(len, 2048)).ok_or("NoSpace")?;
                put(flat, first, &[(memory, 0, len)], RW, mark)
            }
            Op::Unmap { at, pages } => {
                let (first, last) = (address(self.base, at), address(self.base, at + pages) - 1);
                if flat.touching(first, last).any(|area| area.first < first || area.last > last) {
                    return Err("CutsArea".into());
                }
                let bytes = flat.touching(first, last).map(Area::len).sum();
                if flat.touching(first, last).any(|area| area.locks != 0) {
                    return Err("Busy".into());
                }
                for area in flat.areas.iter_mut().filter(|area| area.touches(first, last)) {
                    area.locks = mark;
                }
                if bytes == 0 { Err("NotFound".into()) } else { Ok(bytes) }
            }
            Op::Copy { from, pages, to } => {
                let found =
                    parts(flat, address(self.base, from), address(self.base, from + pages)).ok_or("NotFound")?;
                put(flat, address(self.base, to), &found, Prot::READ, mark)
            }
            Op::Split { at } => {
                let at = address(self.base, at);
                let index = flat.index_at(at).ok_or("NotFound")?;
                let low = flat.areas[index];
                if low.first < at && low.locks != 0 {
                    return Err("Busy".into());
                }
                if low.first < at {
                    flat.areas[index].last = at - 1;
                    flat.insert(Area { first: at, offset: low.offset + (at - low.first), ..low });
                }
                Ok(0)
            }
        }
    }

    /// Lets one go on, if what came of it can have come of it now. A copy looks at what is there in one turn, and puts it
    /// somewhere else in another. A map takes addresses in one turn, and can be used from another on. An unmap takes all its areas
    /// in one turn, and gives their addresses back in others.
    fn go_on(&self, flat: &mut Flat, turn: &mut Turn<'_>) -> bool {
        let Some(((op, came), rest)) = turn.done.split_first() else { return false };
        let busy = *came == Err("Busy".into());
        if turn.unmapping {
            // One area after the other.
            match flat.areas.iter().position(|area| area.locks == turn.mark) {
                Some(lowest) => drop(flat.areas.remove(lowest)),
                None => (turn.unmapping, turn.done) = (false, rest),
            }
            return true;
        }
        if turn.mapping {
            flat.areas.iter_mut().filter(|area| area.locks == turn.mark).for_each(|area| area.locks = 0);
            (turn.mapping, turn.done) = (false, rest);
            return true;
        }
        let now = match (op, turn.found.take()) {
            _ if busy => true,
            (Op::Copy { to, .. }, Some(found)) => {
                put(flat, address(self.base, *to), &found, Prot::READ, turn.mark) == *came
            }
            (Op::Copy { from, pages, .. }, None) if *came != Err("NotFound".into()) => {
                turn.found = parts(flat, address(self.base, *from), address(self.base, from + pages));
                return turn.found.is_some();
            }
            (Op::Unmap { .. }, None) if came.is_ok() => {
                turn.unmapping = self.come(flat, *op, turn.mark) == *came;
                return turn.unmapping;
            }
            _ => self.come(flat, *op, turn.mark) == *came,
        };
        if now && came.is_ok() && !matches!(op, Op::Split { .. }) {
            turn.mapping = true;
        } else {
            turn.done = rest;
        }
        now
    }

    fn search(&self, state: &Flat, turns: &[Turn<'_>], fits: &dyn Fn(&Flat) -> bool) -> bool {
        if turns.iter().all(|turn| turn.done.is_empty()) {
            return fits(state);
        }
        (0..turns.len()).any(|cpu| {
            let (mut state, mut turns) = (state.clone(), turns.to_vec());
            self.go_on(&mut state, &mut turns[cpu]) && self.search(&state, &turns, fits)
        })
    }
}

/// Looks for an order of `done` (for each CPU its operations and what came of them) from `start` on that ends in what is
/// there now. Who met somebody else's operation and was told that it is busy has done nothing.
pub fn explains(world: &World, base: u64, start: &Flat, done: &[Vec<(Op, Came)>]) -> bool {
    let found: Vec<_> = areas(&world.ioas[0]).iter().map(|area| (area.range, area.offset, area.prot)).collect();
    let turns: Vec<_> = (1..)
        .zip(done)
        .map(|(mark, done)| Turn { done, found: None, mark, unmapping: false, mapping: false })
        .collect();
    Fixed::new(world, base).search(start, &turns, &|end| {
        let areas = end.areas.iter().map(|area| (range(area.first, area.len()), area.offset, area.prot));
        areas.eq(found.iter().copied())
    })
}

/// What is there after one CPU alone did `done`.
pub fn after(world: &World, base: u64, start: &Flat, done: &[(Op, Came)]) -> Flat {
    let (fixed, mut state) = (Fixed::new(world, base), start.clone());
    for (op, _) in done {
        let _ = fixed.come(&mut state, *op, 1);
        match op {
            Op::Unmap { .. } => state.areas.retain(|area| area.locks == 0),
            _ => state.areas.iter_mut().for_each(|area| area.locks = 0),
        }
    }
    state
}
