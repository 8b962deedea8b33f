//! Bytes that accesses copy.

use super::check::same;
use super::flat::refuse;
use super::world::World;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::Prot;
use iommu_core::pages::MemoryKind;

impl World {
    /// Reads through an access, or writes `value`.
    pub fn transfer(&mut self, access: u8, near: u16, skip: u16, len: u16, value: Option<u8>) {
        let access = usize::from(access) % self.accesses.len();
        let space = self.accesses[access].space;
        let areas = &self.spaces[space.unwrap_or(0)].flat.areas;
        let near = areas.get(usize::from(near) % areas.len().max(1)).map(|area| area.first);
        let first = near.unwrap_or(self.layout.address(skip)) + u64::from(skip) % 0x1800;
        let Some(range) =
            IovaRange::from_len(Iova::new(first), u64::from(len) % if len < 0xe000 { 0x700 } else { 0x2800 } + 1)
        else {
            return;
        };
        let prot = if value.is_some() { Prot::WRITE } else { Prot::READ };
        let (mut reasons, _) = match space {
            Some(space) => self.expect_use(space, range, prot),
            None => (refuse::<()>("NotFound").expect_err("no space"), Vec::new()),
        };
        let len = range.len().unwrap_or(0) as usize;
        let mut touched = Vec::new();
        if let Some(space) = space {
            for area in self.spaces[space].flat.touching(first, range.last().get()) {
                let (from, to) = (area.first.max(first), area.last.min(range.last().get()));
                let object = &self.objects[area.object];
                reasons.note(object.kind == MemoryKind::Mmio, "Invalid");
                reasons.note(object.memory.is_none(), "BadMemory");
                reasons.note(value.is_some() && !object.writable, "ReadOnly");
                touched.push((area.object, area.offset + (from - area.first), from - first, to - from + 1));
            }
        }
        let mut bytes: Vec<u8> = (0..len).map(|at| value.unwrap_or(0xee).wrapping_add(at as u8)).collect();
        let real = &self.accesses[access].real;
        let found = match value {
            Some(_) => real.write(Iova::new(first), &bytes),
            None => real.read(Iova::new(first), &mut bytes),
        };
        // All of it is checked before anything is copied.
        if same(found, reasons.or_ok()).is_none() {
            self.check_bytes();
            return;
        }
        for (object, offset, at, len) in touched {
            let (range, part) = (offset as usize..(offset + len) as usize, at as usize..(at + len) as usize);
            if value.is_some() {
                self.objects[object].bytes[range].copy_from_slice(&bytes[part]);
            } else {
                assert_eq!(self.objects[object].bytes[range], bytes[part], "bytes read");
            }
        }
        if value.is_some() {
            self.check_bytes();
        }
    }

    /// Compares the content of all memory.
    pub fn check_bytes(&self) {
        for (number, object) in self.objects.iter().enumerate() {
            if let Some(memory) = &object.memory {
                assert!(memory.peek(0, object.len) == object.bytes, "the content of object {number}");
            }
        }
    }
}
