//! Finding nodes, and what all nodes say in the same way.

use super::cells::{Cells, Widths, one};
use super::{DeviceTreeError, extent};
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use iommu_core::addr::{PhysAddr, PhysExtent};

/// How deep nodes may be nested. Real trees have some six levels.
const MAX_DEPTH: usize = 16;

/// A node, and the buses between it and the root.
#[derive(Clone, Copy)]
pub(super) struct Place<'p, 'a> {
    pub(super) node: FdtNode<'a>,
    /// The bus that it is on; `None` for the root.
    parent: Option<&'p Place<'p, 'a>>,
}

impl<'a> Place<'_, 'a> {
    /// The first register window, as the CPU sees it.
    pub(super) fn registers(&self) -> Result<PhysExtent, DeviceTreeError> {
        let unit_address = unit_address(&self.node);
        let missing = DeviceTreeError::Missing { unit_address, property: "reg" };
        let Some(parent) = self.parent else { return Err(missing) };
        let widths = Widths::below(&parent.node)?;
        let Some(mut cells) = Cells::of(&self.node, "reg", widths.address + widths.size)? else { return Err(missing) };
        if cells.is_empty() {
            return Err(missing);
        }
        let (start, len) = (cells.number(widths.address), cells.number(widths.size));
        let too_wide = DeviceTreeError::TooWide { unit_address, property: "reg" };
        let (Some(start), Some(len)) = (start, len) else { return Err(too_wide) };
        parent.translate(extent(start, len, &self.node)?, unit_address)
    }

    /// The widths of addresses and lengths on the bus that the node is on; those of the default for the root.
    pub(super) fn widths_above(&self) -> Result<Widths, DeviceTreeError> {
        Widths::below(&self.parent.unwrap_or(self).node)
    }

    /// Whether the node, or one above it, is compatible with `name`.
    pub(super) fn is_below(&self, name: &str) -> bool {
        is_compatible(&self.node, name) || self.parent.is_some_and(|parent| parent.is_below(name))
    }

    /// The one cell of property `name` of the node, or of the nearest above that has it.
    pub(super) fn inherited(&self, name: &'static str) -> Result<Option<u32>, DeviceTreeError> {
        match (one(&self.node, name)?, self.parent) {
            (None, Some(parent)) => parent.inherited(name),
            (own, _) => Ok(own),
        }
    }

    /// What the CPU sees of a window on the bus that the node is on.
    pub(super) fn translate_above(&self, window: PhysExtent) -> Result<PhysExtent, DeviceTreeError> {
        self.parent.unwrap_or(self).translate(window, unit_address(&self.node))
    }

    /// What the CPU sees of a window on this node's bus.
    fn translate(&self, window: PhysExtent, asker: u64) -> Result<PhysExtent, DeviceTreeError> {
        let mut window = window;
        let mut bus = *self;
        // The root's addresses are the CPU's.
        while let Some(parent) = bus.parent {
            let untranslatable = DeviceTreeError::Untranslatable { unit_address: asker, start: window.start.get() };
            let (own, above) = (Widths::below(&bus.node)?, Widths::below(&parent.node)?);
            let record = own.address + above.address + own.size;
            let Some(ranges) = Cells::of(&bus.node, "ranges", record)? else { return Err(untranslatable) };
            // An empty property: the same addresses above.
            if !ranges.is_empty() {
                window = through(ranges, own, above, window).ok_or(untranslatable)?;
            }
            bus = *parent;
        }
        Ok(window)
    }
}

/// Where the one of `ranges` that holds all of `window` leads to.
fn through(mut ranges: Cells<'_>, own: Widths, above: Widths, window: PhysExtent) -> Option<PhysExtent> {
    while !ranges.is_empty() {
        let (child, parent) = (ranges.number(own.address), ranges.number(above.address));
        let len = ranges.number(own.size);
        let (Some(child), Some(parent), Some(len)) = (child, parent, len) else { continue };
        let Some(offset) = window.start.get().checked_sub(child) else { continue };
        if offset.checked_add(window.len).is_some_and(|end| end <= len) {
            let start = parent.checked_add(offset).filter(|start| start.checked_add(window.len - 1).is_some())?;
            return Some(PhysExtent::new(PhysAddr::new(start), window.len));
        }
    }
    None
}

/// Calls `visit` with each enabled node below `root` that is compatible with `compatible`, in tree order.
///
/// # Errors
///
/// [`DeviceTreeError::TooDeep`], and what `visit` returns.
pub(super) fn for_each_compatible<'a>(
    root: FdtNode<'a>,
    compatible: &str,
    visit: &mut dyn FnMut(&Place<'_, 'a>) -> Result<(), DeviceTreeError>,
) -> Result<(), DeviceTreeError> {
    for_each(root, &mut |place| if is_compatible(&place.node, compatible) { visit(place) } else { Ok(()) })
}

/// Calls `visit` with each enabled node below `root`, in tree order.
///
/// # Errors
///
/// [`DeviceTreeError::TooDeep`], and what `visit` returns.
pub(super) fn for_each<'a>(
    root: FdtNode<'a>,
    visit: &mut dyn FnMut(&Place<'_, 'a>) -> Result<(), DeviceTreeError>,
) -> Result<(), DeviceTreeError> {
    descend(&Place { node: root, parent: None }, MAX_DEPTH, visit)
}

/// Whether the node is compatible with `name`.
pub(super) fn is_compatible(node: &FdtNode<'_>, name: &str) -> bool {
    // A list of strings, each with a zero at its end.
    bytes(node, "compatible").is_some_and(|names| names.split(|byte| *byte == 0).any(|it| it == name.as_bytes()))
}

/// The register window of the node at an absolute path; `None` where there is no such node.
pub(super) fn at_path(root: FdtNode<'_>, path: &str) -> Result<Option<PhysExtent>, DeviceTreeError> {
    follow(&Place { node: root, parent: None }, path.trim_start_matches('/'), MAX_DEPTH)
}

fn follow(place: &Place<'_, '_>, path: &str, depth: usize) -> Result<Option<PhysExtent>, DeviceTreeError> {
    if path.is_empty() {
        return place.registers().map(Some);
    }
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    let Some(node) = place.node.child(name) else { return Ok(None) };
    if depth == 0 {
        return Err(DeviceTreeError::TooDeep);
    }
    follow(&Place { node, parent: Some(place) }, rest, depth - 1)
}

fn descend<'a>(
    place: &Place<'_, 'a>,
    depth: usize,
    visit: &mut dyn FnMut(&Place<'_, 'a>) -> Result<(), DeviceTreeError>,
) -> Result<(), DeviceTreeError> {
    for node in place.node.children() {
        if !is_enabled(&node) {
            continue;
        }
        if depth == 0 {
            return Err(DeviceTreeError::TooDeep);
        }
        let child = Place { node, parent: Some(place) };
        visit(&child)?;
        descend(&child, depth - 1, visit)?;
    }
    Ok(())
}

/// Whether the device is there and works (`status`, Devicetree Specification section 2.3.4).
pub(super) fn is_enabled(node: &FdtNode<'_>) -> bool {
    bytes(node, "status").is_none_or(|status| matches!(status, b"okay\0" | b"ok\0"))
}

/// The bytes of property `name`, for as long as the tree lives; `None` where the node has none.
pub(super) fn bytes<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    // By way of a type of the library: `Property::value` borrows from the handle.
    node.property(name)?.value_as::<&'a [u8]>().ok()
}

/// The text that property `name` holds; `None` where the node has none.
pub(super) fn text<'a>(node: &FdtNode<'a>, name: &'static str) -> Result<Option<&'a str>, DeviceTreeError> {
    bytes(node, name).map(|bytes| as_text(bytes, name)).transpose()
}

/// The text of a value of property `name`: what stands before the zero at its end.
pub(super) fn as_text<'a>(value: &'a [u8], name: &'static str) -> Result<&'a str, DeviceTreeError> {
    let text = value.strip_suffix(&[0]).and_then(|bytes| core::str::from_utf8(bytes).ok());
    text.ok_or(DeviceTreeError::NotText { property: name })
}

/// The number behind the `@` in a node's name, by which people and errors name it; 0 where there is none.
pub(super) fn unit_address(node: &FdtNode<'_>) -> u64 {
    let address = node.name().split_once('@').map(|(_, address)| address);
    address.and_then(|address| u64::from_str_radix(address, 16).ok()).unwrap_or(0)
}
