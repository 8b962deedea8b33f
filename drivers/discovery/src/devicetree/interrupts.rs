//! The interrupts of a unit: wired ones by name, and where its own messages lead.

use super::DeviceTreeError;
use super::cells::Cells;
use super::index::Index;
use super::node::{Place, bytes};
use crate::streams::{Interrupts, Msi};

/// Where the kinds of interrupts begin in a GIC's numbers (INTID): shared ones of devices, and those of one CPU.
const SHARED: u32 = 32;
const PRIVATE: u32 = 16;

/// The wired interrupts of the unit at `place`; none where they are not a GIC's.
pub(super) fn wired(place: &Place<'_, '_>, index: &Index) -> Result<Interrupts, DeviceTreeError> {
    let mut interrupts = Interrupts::default();
    let parent = place.inherited("interrupt-parent")?.and_then(|phandle| index.get(phandle));
    let Some(record) = parent.and_then(|parent| parent.interrupt_cells) else { return Ok(interrupts) };
    let (Some(mut cells), Some(names)) =
        (Cells::of(&place.node, "interrupts", record)?, bytes(&place.node, "interrupt-names"))
    else {
        return Ok(interrupts);
    };
    // A list of strings, each with a zero at its end.
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if cells.is_empty() {
            break;
        }
        let (kind, number) = (cells.cell(), cells.cell());
        (2..record).for_each(|_| _ = cells.cell());
        let line = match kind {
            0 => number.checked_add(SHARED),
            1 => number.checked_add(PRIVATE),
            _ => None,
        };
        match name {
            b"eventq" => interrupts.event = line,
            b"gerror" => interrupts.error = line,
            b"cmdq-sync" => interrupts.sync = line,
            b"priq" => interrupts.page_request = line,
            b"combined" => interrupts = Interrupts { event: line, error: line, sync: line, page_request: line },
            _ => {}
        }
    }
    Ok(interrupts)
}

/// Where messages of the device at `place` lead by its `msi-parent`: the first of them, as far as it is an interrupt
/// translation service and names a device id.
pub(super) fn message(place: &Place<'_, '_>, index: &Index) -> Result<Option<Msi>, DeviceTreeError> {
    let Some(mut cells) = Cells::of(&place.node, "msi-parent", 1)? else { return Ok(None) };
    let group = index.its(cells.cell());
    if cells.is_empty() {
        return Ok(None);
    }
    Ok(group.map(|group| Msi { group, device_id: cells.cell() }))
}
