//! Trees made up here, one that QEMU has written, and both with bytes changed.

use super::*;
use crate::Sbdf;
use crate::streams::{Interrupts, Model, Msi, PlatformDevice, StreamRange};
use crate::test_fdt::{Node, Prop, QEMU_VIRT, blob, board, cells, deep_blob, flag, strings};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Prot, RequesterId, StreamId};
use iommu_core::region::{RegionKind, ReservedRegion};
use proptest::prelude::*;

fn extent(start: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(start), len)
}

fn at(segment: u16, bus: u8, device: u8, function: u8) -> Sbdf {
    Sbdf::from_parts(segment, bus, device, function).unwrap()
}

/// What [`Streams::read`] says of the board once `change` was made to its host bridge or unit.
fn streams_of(change: impl FnOnce(&mut Node)) -> Result<Streams, DeviceTreeError> {
    let mut root = board();
    change(&mut root);
    let blob = blob(&root, &[]);
    Streams::read(&DeviceTree::parse(&blob).unwrap())
}

/// What [`Streams::hosts_of`] says of the board after `change`.
fn hosts_of(change: impl FnOnce(&mut Node)) -> Result<Vec<PciHost>, DeviceTreeError> {
    let mut root = board();
    change(&mut root);
    let blob = blob(&root, &[]);
    Streams::hosts_of(&DeviceTree::parse(&blob).unwrap())
}

/// A unit with registers at `base` of which nothing else is said.
fn plain(base: u64) -> Smmu {
    Smmu {
        registers: extent(base, 0x2_0000),
        coherent: false,
        updates: None,
        model: Model::Generic,
        interrupts: Interrupts::default(),
        msi: None,
        proximity_domain: None,
    }
}

const HOST: &str = "pcie@3000000000";
const HOST_ADDRESS: u64 = 0x30_0000_0000;

fn with_host(prop: Prop) -> Result<Streams, DeviceTreeError> {
    streams_of(|root| root.child(HOST).set(prop))
}

fn with_unit(prop: Prop) -> Result<Streams, DeviceTreeError> {
    streams_of(|root| root.child("soc").child("iommu@1000").set(prop))
}

#[test]
fn qemus_tree_is_read() {
    let tree = DeviceTree::parse(QEMU_VIRT).unwrap();
    assert_eq!(tree.bootargs(), Ok("scenario=stage-1"));
    assert_eq!(tree.memory().collect::<Vec<_>>(), [Ok(extent(0x4000_0000, 4 << 30))]);
    assert_eq!(tree.reserved().count(), 0);
    assert_eq!(tree.stdout(), Ok(Some(extent(0x900_0000, 0x1000))));
    let mut ports = Vec::new();
    tree.for_each_compatible("arm,pl011", |port| ports.push(port.start.get())).unwrap();
    assert_eq!(ports, [0x900_0000, 0x904_0000]);

    let streams = Streams::read(&tree).unwrap();
    let lines = Interrupts { event: Some(0x6a), error: Some(0x6d), sync: Some(0x6c), page_request: Some(0x6b) };
    let unit = Smmu { interrupts: lines, coherent: true, ..plain(0x905_0000) };
    assert_eq!(streams.units(), [unit]);
    let hosts = Streams::hosts_of(&tree).unwrap();
    let [host] = &hosts[..] else { panic!("one host bridge") };
    assert_eq!((host.ecam.segment, host.ecam.start_bus, host.ecam.end_bus), (0, 0, 0xff));
    assert_eq!(host.ecam.start(), PhysAddr::new(0x40_1000_0000));
    let window = |start, len, wide| PciWindow { cpu: extent(start, len), bus: start, wide, prefetchable: false };
    assert_eq!(host.windows, [window(0x1000_0000, 0x2eff_0000, false), window(0x80_0000_0000, 0x80_0000_0000, true)]);
    assert_eq!(streams.of(at(0, 0, 4, 0)), Ok((0, StreamId::new(0x20))));
    assert_eq!(streams.of(at(0, 0xff, 31, 7)), Ok((0, StreamId::new(0xffff))));
    assert_eq!(streams.of(at(1, 0, 4, 0)), Err(Uncontrolled(at(1, 0, 4, 0))));
}

#[test]
fn the_blob_may_go_on_and_its_header_tells_how_long_it_is() {
    let mut longer = QEMU_VIRT.to_vec();
    longer.resize(longer.len() + 100, 0xaa);
    assert!(DeviceTree::parse(&longer).is_ok());
    assert_eq!(DeviceTree::len_in_header(QEMU_VIRT.first_chunk().unwrap()), Some(QEMU_VIRT.len()));
    assert_eq!(DeviceTree::len_in_header(&[0; HEADER_LEN]), None);
    for len in [0, 3, 39, 40, 100, QEMU_VIRT.len() - 1] {
        assert!(matches!(DeviceTree::parse(&QEMU_VIRT[..len]), Err(DeviceTreeError::Structure(_))), "{len} bytes");
    }
}

#[test]
fn memory_and_what_is_taken_of_it() {
    let blob = blob(&board(), &[(0x8000_0000, 0x10_0000), (u64::MAX, 5)]);
    let tree = DeviceTree::parse(&blob).unwrap();
    let memory: Vec<_> = tree.memory().map(Result::unwrap).collect();
    assert_eq!(memory, [extent(0x8000_0000, 0x4000_0000), extent(0x8_0000_0000, 0x10_0000_0000)]);
    let reserved: Vec<_> = tree.reserved().map(Result::unwrap).collect();
    assert_eq!(reserved, [extent(0x8000_0000, 0x10_0000), extent(0x9000_0000, 0x1000)]);
}

#[test]
fn bad_memory_is_named() {
    let with = |reg: Prop| {
        let mut root = board();
        root.child("memory@80000000").set(reg);
        let blob = blob(&root, &[]);
        DeviceTree::parse(&blob).unwrap().memory().find_map(Result::err)
    };
    assert_eq!(with(cells("reg", &[0, 0x8000_0000, 0, 0x4000_0000])), None);
    let short = DeviceTreeError::ShortProperty { unit_address: 0x8000_0000, property: "reg", len: 12, record: 16 };
    assert_eq!(with(cells("reg", &[0, 0, 1])), Some(short));
    let start = u64::MAX - 0xfff;
    let wraps = DeviceTreeError::BadRegion { unit_address: 0x8000_0000, start, len: 0x2000 };
    assert_eq!(with(cells("reg", &[u32::MAX, 0xffff_f000, 0, 0x2000])), Some(wraps));

    let mut root = board();
    root.set(cells("#address-cells", &[5]));
    let blob = blob(&root, &[]);
    let error = DeviceTree::parse(&blob).unwrap().memory().find_map(Result::err);
    let wide = DeviceTreeError::TooManyCells { unit_address: 0, property: "#address-cells", cells: 5 };
    assert_eq!(error, Some(wide));
}

#[test]
fn consoles_and_arguments() {
    let blob = blob(&board(), &[]);
    let tree = DeviceTree::parse(&blob).unwrap();
    assert_eq!(tree.bootargs(), Ok("scenario=x option=y"));
    // By an alias, and with what stands behind the colon left out.
    assert_eq!(tree.stdout(), Ok(Some(extent(0xc000, 0x1000))));
    let mut ports = Vec::new();
    tree.for_each_compatible("arm,pl011", |port| ports.push(port.start.get())).unwrap();
    assert_eq!(ports, [0xa000, 0xc000], "the one that is disabled is left out");
    let mut none = 0;
    tree.for_each_compatible("arm,pl01", |_| none += 1).unwrap();
    assert_eq!(none, 0);
}

#[test]
fn text_must_end_and_be_text() {
    for value in [vec![b'a'], vec![0xff, 0]] {
        let mut root = board();
        root.child("chosen").set(Prop("bootargs", value));
        let blob = blob(&root, &[]);
        let error = DeviceTreeError::NotText { property: "bootargs" };
        assert_eq!(DeviceTree::parse(&blob).unwrap().bootargs(), Err(error));
    }
    let mut root = board();
    root.2.retain(|child| child.0 != "chosen");
    let blob = blob(&root, &[]);
    let tree = DeviceTree::parse(&blob).unwrap();
    assert_eq!((tree.bootargs(), tree.stdout()), (Ok(""), Ok(None)));
}

#[test]
fn a_board_with_moved_addresses_and_its_own_streams() {
    let streams = streams_of(|_| {}).unwrap();
    assert_eq!(streams.units(), [Smmu { coherent: true, ..plain(0x2_0001_0000) }]);
    let hosts = hosts_of(|_| {}).unwrap();
    let [host] = &hosts[..] else { panic!("one host bridge") };
    // The window begins with the first bus, the region's base is where bus 0 would be.
    assert_eq!((host.ecam.base, host.ecam.start()), (PhysAddr::new(0x30_0000_0000), PhysAddr::new(0x30_0100_0000)));
    assert_eq!((host.ecam.segment, host.ecam.len_bytes()), (3, 16 << 20));
    let narrow =
        PciWindow { cpu: extent(0x40_8000_0000, 0x1000_0000), bus: 0x8000_0000, wide: false, prefetchable: false };
    let wide = PciWindow { cpu: extent(0x50_0000_0000, 1 << 32), bus: 0x50_0000_0000, wide: true, prefetchable: true };
    assert_eq!(host.windows, [narrow, wide]);
    for (device, stream) in [(0, None), (1, Some(0x5000)), (2, None), (3, Some(0x6000)), (4, Some(0x6008)), (5, None)] {
        let function = at(3, 0x10, device, 0);
        let expected = stream.map(|stream| (0, StreamId::new(stream))).ok_or(Uncontrolled(function));
        assert_eq!(streams.of(function), expected, "device {device}");
    }
    assert_eq!(streams.of(at(3, 0x10, 1, 7)), Ok((0, StreamId::new(0x5007))));
    assert!(streams.of(at(3, 0x20, 1, 0)).is_err() && streams.of(at(0, 0x10, 1, 0)).is_err());
}

#[test]
fn the_mask_is_applied_before_the_look_up() {
    // All functions of a device are one requester.
    let streams = streams_of(|root| root.child(HOST).set(cells("iommu-map-mask", &[0xfff8]))).unwrap();
    for function in 0..8 {
        assert_eq!(streams.of(at(3, 0x10, 1, function)), Ok((0, StreamId::new(0x5000))));
    }
    // One without a map is controlled by nobody.
    let streams = streams_of(|root| root.child(HOST).unset("iommu-map")).unwrap();
    assert_eq!(streams.of(at(3, 0x10, 1, 0)), Err(Uncontrolled(at(3, 0x10, 1, 0))));
    let words = Uncontrolled(at(3, 0x10, 1, 0)).to_string();
    assert_eq!(words, "no SMMUv3 sees 0003:10:01.0: its DMA is not controlled");
}

#[test]
fn an_iommu_map_that_makes_no_sense_is_refused() {
    let unit_address = HOST_ADDRESS;
    let map = |entries: &[u32]| with_host(cells("iommu-map", entries)).unwrap_err();
    let short = DeviceTreeError::ShortProperty { unit_address, property: "iommu-map", len: 12, record: 16 };
    assert_eq!(map(&[0, 7, 0]), short);
    let short = DeviceTreeError::ShortProperty { unit_address, property: "iommu-map", len: 17, record: 16 };
    assert_eq!(with_host(Prop("iommu-map", vec![0; 17])), Err(short));
    let overlap = |requester| DeviceTreeError::OverlappingRequesters { unit_address, requester };
    assert_eq!(map(&[0x100, 7, 0, 0x100, 0, 7, 0, 0x101]), overlap(RequesterId::new(0x100)));
    assert_eq!(map(&[5, 7, 0, 1, 5, 7, 9, 1]), overlap(RequesterId::new(5)));
    let requesters = |first, len| DeviceTreeError::BadRequesters { unit_address, first, len };
    assert_eq!(map(&[0, 7, 0, 0]), requesters(0, 0));
    assert_eq!(map(&[0x8000, 7, 0, 0x8001]), requesters(0x8000, 0x8001));
    assert_eq!(map(&[u32::MAX, 7, 0, 2]), requesters(u32::MAX, 2));
    assert_eq!(map(&[0, 7, 0, u32::MAX]), requesters(0, u32::MAX));
    let streams = DeviceTreeError::BadStreams { unit_address, first: 0xffff_ff01, len: 0x100 };
    assert_eq!(map(&[0, 7, 0xffff_ff01, 0x100]), streams);
    assert_eq!(map(&[0, 8, 0, 1]), DeviceTreeError::UnknownPhandle { unit_address, phandle: 8 });
    // Up to the last stream, and neighbours, are right.
    assert!(with_host(cells("iommu-map", &[0x100, 7, 0xffff_ff00, 0x100, 0, 7, 0, 0x100])).is_ok());
    // One stream for two requesters.
    let shared = |stream| DeviceTreeError::SharedStreams { phandle: 7, stream };
    assert_eq!(map(&[0, 7, 0, 0x100, 0x100, 7, 0, 0x100]), shared(0));
    assert_eq!(map(&[0, 7, 0, 0x100, 0x100, 7, 0xff, 0x100]), shared(0xff));
    assert!(with_host(cells("iommu-map", &[0, 7, 0, 0x100, 0x100, 7, 0x100, 0x100])).is_ok());
}

#[test]
fn units_that_make_no_sense_are_refused() {
    let unit_address = 0x1000;
    let absent = streams_of(|root| root.2.retain(|child| child.0 != "soc"));
    assert_eq!(absent, Err(DeviceTreeError::NoSmmu));
    assert_eq!(with_unit(strings("status", &["disabled"])), Err(DeviceTreeError::NoSmmu));
    assert_eq!(with_unit(cells("#iommu-cells", &[2])), Err(DeviceTreeError::BadIommuCells { unit_address, cells: 2 }));
    let phandle = DeviceTreeError::UnknownPhandle { unit_address: HOST_ADDRESS, phandle: 7 };
    assert_eq!(with_unit(cells("phandle", &[6])), Err(phandle));
    let short = DeviceTreeError::ShortProperty { unit_address, property: "phandle", len: 8, record: 4 };
    assert_eq!(with_unit(cells("phandle", &[6, 7])), Err(short));
    let missing = DeviceTreeError::Missing { unit_address, property: "reg" };
    assert_eq!(with_unit(cells("reg", &[])), Err(missing));
    let empty = DeviceTreeError::BadRegion { unit_address, start: 0x1000, len: 0 };
    assert_eq!(with_unit(cells("reg", &[0x1000, 0])), Err(empty));
    let beyond = DeviceTreeError::Untranslatable { unit_address, start: 0xff_f000 };
    assert_eq!(with_unit(cells("reg", &[0xff_f000, 0x1001])), Err(beyond));
    let shut = streams_of(|root| root.child("soc").unset("ranges"));
    assert_eq!(shut, Err(DeviceTreeError::Untranslatable { unit_address, start: 0x1_0000 }));
    let same = streams_of(|root| {
        let mut second = root.child("soc").2[0].clone();
        second.0 = "iommu@40000";
        root.child("soc").2.push(second);
    });
    assert_eq!(same, Err(DeviceTreeError::SamePhandle { unit_address: 0x4_0000, phandle: 7 }));
    // Not coherent where nothing says so.
    let plain = streams_of(|root| root.child("soc").child("iommu@1000").unset("dma-coherent")).unwrap();
    assert!(!plain.units()[0].coherent);
    // An empty `ranges` moves nothing.
    let same = streams_of(|root| root.child("soc").set(flag("ranges"))).unwrap();
    assert_eq!(same.units()[0].registers.start, PhysAddr::new(0x1_0000));
}

#[test]
fn host_bridges_that_make_no_sense_are_refused() {
    let unit_address = HOST_ADDRESS;
    let buses = |first, last| DeviceTreeError::BadBusRange { unit_address, first, last };
    for (first, last) in [(0x1f, 0x10), (0, 0x100), (0x10, 0x20)] {
        assert_eq!(with_host(cells("bus-range", &[first, last])), Err(buses(first, last)));
    }
    let segment = DeviceTreeError::BadSegment { unit_address, segment: 0x1_0000 };
    assert_eq!(with_host(cells("linux,pci-domain", &[0x1_0000])), Err(segment));
    let same = streams_of(|root| {
        let mut second = root.child(HOST).clone();
        second.0 = "pcie@1";
        root.2.push(second);
    });
    assert_eq!(same, Err(DeviceTreeError::SameBuses { unit_address: 1, segment: 3 }));
    let high = [0x0200_0000, 0, 0xf000_0000, 0, 0xf000_0000, 0, 0x1000_0001];
    let region = DeviceTreeError::BadRegion { unit_address, start: 0xf000_0000, len: 0x1000_0001 };
    assert_eq!(with_host(cells("ranges", &high)), Err(region));
    let property = "#address-cells";
    let cells_of = DeviceTreeError::TooManyCells { unit_address, property, cells: 2 };
    assert_eq!(with_host(cells(property, &[2])), Err(cells_of));
    assert!(hosts_of(|root| root.child(HOST).set(cells("ranges", &[]))).unwrap()[0].windows.is_empty());
}

#[test]
fn depth_is_bounded() {
    let read = |blob: &[u8]| Streams::hosts_of(&DeviceTree::parse(blob).unwrap()).map(|_| ());
    let nested = |levels: usize| {
        let mut node = Node("leaf", Vec::new(), Vec::new());
        for _ in 0..levels {
            node = Node("bus", vec![flag("ranges")], vec![node]);
        }
        let mut root = board();
        root.2.push(node);
        read(&blob(&root, &[]))
    };
    assert_eq!(nested(15), Ok(()));
    assert_eq!(nested(16), Err(DeviceTreeError::TooDeep));
    assert_eq!(read(&deep_blob(100_000)), Err(DeviceTreeError::TooDeep));
}

/// Asks everything of a tree; whatever the answers are, they must come.
fn ask_everything(bytes: &[u8]) {
    let Ok(tree) = DeviceTree::parse(bytes) else { return };
    let _ = (tree.bootargs(), tree.stdout());
    let _ = (tree.memory().count(), tree.reserved().count());
    let _ = tree.for_each_compatible("arm,pl011", |_| {});
    let _ = Streams::hosts_of(&tree).map_err(|error| error.to_string());
    let Ok(streams) = Streams::read(&tree) else { return };
    for requester in [0, 0x20, 0x1008, 0xffff] {
        if let Ok((unit, _)) = streams.of(Sbdf::new(0, RequesterId::new(requester))) {
            assert!(unit < streams.units().len());
        }
    }
}

#[test]
fn no_single_changed_byte_makes_it_panic() {
    for original in [QEMU_VIRT.to_vec(), blob(&rich_board(), &[(0x8000_0000, 0x1000)])] {
        let mut bytes = original.clone();
        // All of the header; of the rest a part will do, and of QEMU's tree, which is long, a smaller one.
        let step = if original.len() > 4096 { 61 } else { 11 };
        for at in (0..40).chain((40..bytes.len()).step_by(step)) {
            for value in [0, 0xff, original[at] ^ 0x80, original[at].wrapping_add(1)] {
                bytes[at] = value;
                ask_everything(&bytes);
            }
            bytes[at] = original[at];
        }
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        short in any::<bool>(),
    ) {
        let mut bytes = blob(&rich_board(), &[(0x8000_0000, 0x1000)]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let len = if short { cut.index(bytes.len()) } else { bytes.len() };
        ask_everything(&bytes[..len]);
    }

    #[test]
    fn the_look_up_agrees_with_the_rule(
        entries in proptest::collection::vec((0u32..0x200, 1u32..0x80, 0u16..0x800), 0..6),
        mask in prop_oneof![Just(0xffffu32), Just(0xfff8), any::<u16>().prop_map(u32::from)],
        requester in 0u16..0x300,
    ) {
        let flat: Vec<u32> = entries.iter().flat_map(|&(first, len, stream)| [first, 7, stream.into(), len]).collect();
        let touch = |a: u32, b: u32, lens: (u32, u32)| a < b + lens.1 && b < a + lens.0;
        let overlapping = entries.iter().enumerate().any(|(index, a)| {
            entries.iter().skip(index + 1).any(|b| {
                touch(a.0, b.0, (a.1, b.1)) || touch(a.2.into(), b.2.into(), (a.1, b.1))
            })
        });
        let read = streams_of(|root| {
            let host = root.child(HOST);
            host.set(cells("iommu-map", &flat));
            host.set(cells("iommu-map-mask", &[mask]));
            host.set(cells("bus-range", &[0, 3]));
        });
        prop_assert_eq!(read.is_err(), overlapping);
        if let Ok(streams) = read {
            let masked = u32::from(requester) & mask;
            let due = entries.iter().find(|entry| (entry.0..entry.0 + entry.1).contains(&masked));
            let due = due.map(|&(first, _, stream)| StreamId::new(masked - first + u32::from(stream)));
            let found = streams.of(Sbdf::new(3, RequesterId::new(requester))).ok().map(|(_, stream)| stream);
            prop_assert_eq!(found, due);
        }
    }
}

/// The board with a GIC, an interrupt translation service, a second unit, a device behind each, and memory kept for them.
fn rich_board() -> Node {
    let mut root = board();
    let service = |name, base, phandle| {
        let props = [strings("compatible", &["arm,gic-v3-its"]), cells("reg", &[0, base, 0, 0x2_0000])];
        Node(name, [&props[..], &[cells("phandle", &[phandle]), cells("#msi-cells", &[1])]].concat(), Vec::new())
    };
    let gic = vec![
        strings("compatible", &["arm,gic-v3"]),
        cells("reg", &[0, 0x800_0000, 0, 0x1_0000]),
        cells("#interrupt-cells", &[3]),
        cells("phandle", &[20]),
        flag("ranges"),
        cells("#address-cells", &[2]),
        cells("#size-cells", &[2]),
    ];
    let services = vec![service("its@8080000", 0x808_0000, 21), service("its@8180000", 0x818_0000, 22)];
    root.2.push(Node("intc@8000000", gic, services));
    root.set(cells("interrupt-parent", &[20]));
    let soc = root.child("soc");
    let mut second = soc.child("iommu@1000").clone();
    second.0 = "iommu@40000";
    second.unset("dma-coherent");
    second.set(cells("reg", &[0x4_0000, 0x2_0000]));
    second.set(cells("phandle", &[8]));
    second.set(strings("interrupt-names", &["combined"]));
    second.set(cells("interrupts", &[0, 100, 1]));
    second.set(cells("msi-parent", &[22, 0x99]));
    second.set(cells("numa-node-id", &[2]));
    soc.2.push(second);
    let unit = soc.child("iommu@1000");
    unit.set(strings("interrupt-names", &["eventq", "gerror", "cmdq-sync", "priq", "vendor"]));
    unit.set(cells("interrupts", &[0, 10, 1, 1, 11, 1, 0, 12, 1, 0, 13, 1, 0, 14, 1]));
    let dma = |name, phandle, iommus: &[u32], extra: &[Prop]| {
        Node(name, [&[cells("phandle", &[phandle]), cells("iommus", iommus)], extra].concat(), Vec::new())
    };
    soc.2.push(dma("dma@1", 30, &[7, 0x42, 8, 5], &[flag("dma-can-stall"), cells("pasid-num-bits", &[17])]));
    soc.2.push(dma("dma@2", 31, &[8, 6], &[cells("pasid-num-bits", &[60])]));
    soc.2.push(dma("dma@3", 32, &[99, 7, 8, 5], &[]));
    soc.2.push(dma("dma@4", 33, &[7, 0x43], &[strings("status", &["disabled"])]));
    let host = root.child(HOST);
    host.set(cells("phandle", &[40]));
    host.set(cells("msi-map", &[0x1000, 21, 0x700, 0x100]));
    host.set(flag("ats-supported"));
    let kept = root.child("reserved-memory");
    // Addresses of devices on the bus `soc` have one cell, those of the host bridge's bus two.
    let secure = kept.child("secure@90000000");
    secure.set(cells("iommu-addresses", &[30, 0x9000_0000, 0x1000, 40, 0, 0x9000_0000, 0, 0x1000]));
    kept.child("pool").set(cells("iommu-addresses", &[30, 0x2000, 0x3000]));
    root
}

fn rich(change: impl FnOnce(&mut Node)) -> Result<Streams, DeviceTreeError> {
    let mut root = rich_board();
    change(&mut root);
    Streams::read(&DeviceTree::parse(&blob(&root, &[])).unwrap())
}

#[test]
fn interrupts_and_messages_of_units() {
    let streams = rich(|_| {}).unwrap();
    let [first, second] = streams.units() else { panic!("two units") };
    let lines = Interrupts { event: Some(42), error: Some(27), sync: Some(44), page_request: Some(45) };
    assert_eq!((first.interrupts, first.msi, first.coherent, first.proximity_domain), (lines, None, true, None));
    let all = Some(132);
    let combined = Interrupts { event: all, error: all, sync: all, page_request: all };
    let own = Some(Msi { group: 1, device_id: 0x99 });
    assert_eq!((second.interrupts, second.msi, second.coherent), (combined, own, false));
    assert_eq!((second.proximity_domain, first.updates), (Some(2), None));
    let doorbells: Vec<_> = (0..3).map(|group| streams.doorbells(group).first().copied()).collect();
    assert_eq!(doorbells, [Some(extent(0x809_0000, 0x1_0000)), Some(extent(0x819_0000, 0x1_0000)), None]);
    let id = |function| streams.msi_of(at(3, 0x10, 0, function));
    assert_eq!((id(0), id(7)), (Some(Msi { group: 0, device_id: 0x700 }), Some(Msi { group: 0, device_id: 0x707 })));
    assert_eq!(streams.msi_of(at(3, 0x11, 0, 0)), None);
    let host = streams.host_of(at(3, 0x11, 0, 0)).unwrap();
    assert_eq!((host.ats, host.page_requests, host.pasid_bits, host.segment), (true, true, None, 3));
    // Interrupts of an unknown controller mean nothing; too few of them are none.
    let unit = |change: &dyn Fn(&mut Node)| {
        rich(|root| change(root.child("soc").child("iommu@1000"))).map(|streams| streams.units()[0].interrupts)
    };
    assert_eq!(unit(&|unit| unit.set(cells("interrupt-parent", &[30]))), Ok(Interrupts::default()));
    let event = Interrupts { event: Some(42), ..Interrupts::default() };
    assert_eq!(unit(&|unit| unit.set(cells("interrupts", &[0, 10, 1]))), Ok(event));
    assert_eq!(unit(&|unit| unit.set(cells("interrupts", &[2, 10, 1]))), Ok(Interrupts::default()));
    assert_eq!(unit(&|unit| unit.set(cells("interrupts", &[0, u32::MAX, 1]))), Ok(Interrupts::default()));
    assert_eq!(unit(&|unit| unit.unset("interrupt-names")), Ok(Interrupts::default()));
    let short = DeviceTreeError::ShortProperty { unit_address: 0x1000, property: "interrupts", len: 16, record: 12 };
    assert_eq!(unit(&|unit| unit.set(cells("interrupts", &[0, 1, 2, 3]))), Err(short));
    // Where there is no map all ids go on to the parent as they are.
    let by_parent = rich(|root| {
        root.child(HOST).unset("msi-map");
        root.child(HOST).set(cells("msi-parent", &[22]));
    });
    let id = Some(Msi { group: 1, device_id: 0x1108 });
    assert_eq!(by_parent.unwrap().msi_of(at(3, 0x11, 1, 0)), id);
    for base in [0, 0x808_1000] {
        let moved =
            rich(|root| root.child("intc@8000000").child("its@8080000").set(cells("reg", &[0, base, 0, 0x2_0000])));
        assert_eq!(moved, Err(DeviceTreeError::BadRegisters { unit_address: 0x808_0000, start: base.into() }));
    }
}

#[test]
fn devices_that_are_no_functions() {
    let streams = rich(|_| {}).unwrap();
    let range = |unit, id| StreamRange { unit, first: StreamId::new(id), last: StreamId::new(id) };
    let of =
        |device: &PlatformDevice| (device.name.clone(), device.streams.clone(), device.can_stall, device.pasid_bits);
    let devices: Vec<_> = streams.devices().iter().map(of).collect();
    // The third is behind something else, the fourth is off.
    let expected = [
        ("dma@1".to_string(), vec![range(0, 0x42), range(1, 5)], true, 17),
        ("dma@2".to_string(), vec![range(1, 6)], false, 20),
    ];
    assert_eq!(devices, expected);
    let short = DeviceTreeError::ShortProperty { unit_address: 2, property: "iommus", len: 5, record: 4 };
    assert_eq!(rich(|root| root.child("soc").child("dma@2").set(Prop("iommus", vec![0; 5]))), Err(short));
}

#[test]
fn memory_that_devices_go_on_using() {
    let streams = rich(|_| {}).unwrap();
    let region = |start, len, kind| ReservedRegion { range: IovaRange::from_len(Iova::new(start), len).unwrap(), kind };
    let same = region(0x9000_0000, 0x1000, RegionKind::Direct { prot: Prot::READ_WRITE });
    // No memory is behind these: they are only to be kept free.
    let free = region(0x2000, 0x3000, RegionKind::Reserved);
    let kept = |unit, id| streams.reserved_for(unit, StreamId::new(id)).collect::<Vec<_>>();
    assert_eq!((kept(0, 0x42), kept(1, 5)), (vec![same, free], vec![same, free]));
    assert_eq!((kept(1, 6), kept(0, 0x43), kept(0, 0x4fff)), (vec![], vec![], vec![]));
    // All functions behind the bridge.
    for stream in [0x5000, 0x5007, 0x6000, 0x600f] {
        assert_eq!(kept(0, stream), [same], "{stream:#x}");
    }
    let with = |words: &[u32]| {
        rich(|root| {
            root.child("reserved-memory").child("secure@90000000").set(cells("iommu-addresses", words));
        })
    };
    let kind = |words: &[u32]| with(words).unwrap().reserved()[0].regions[0].kind;
    let direct = RegionKind::Direct { prot: Prot::READ_WRITE };
    assert_eq!(kind(&[30, 0x9000_0000, 0x1000]), direct);
    assert_eq!(
        (kind(&[30, 0x9000_0000, 0x2000]), kind(&[30, 0x9000_1000, 0x1000])),
        (RegionKind::Reserved, RegionKind::Reserved)
    );
    let unit_address = 0x9000_0000;
    assert_eq!(with(&[77, 0, 1]), Err(DeviceTreeError::UnknownDevice { unit_address, phandle: 77 }));
    let bad = |start, len| Err(DeviceTreeError::BadRegion { unit_address, start, len });
    assert_eq!(with(&[30, 0x1000, 0]), bad(0x1000, 0));
    assert_eq!(with(&[40, u32::MAX, 0xffff_f000, 0, 0x1001]), bad(u64::MAX - 0xfff, 0x1001));
    let property = "iommu-addresses";
    let short = |len, record| Err(DeviceTreeError::ShortProperty { unit_address, property, len, record });
    assert_eq!((with(&[30, 0]), with(&[40, 0, 0, 0])), (short(4, 8), short(12, 16)));
}

#[test]
fn registers_of_units_stand_on_their_own_pages() {
    let at = |start| with_unit(cells("reg", &[start, 0x2_0000]));
    // `ranges` of the board moves the bus by 0x2_0000_0000.
    let bad = at(0x1_0000 + 8).unwrap_err();
    assert!(matches!(bad, DeviceTreeError::BadRegisters { start, .. } if start & 0xffff == 8), "{bad:?}");
    let second = |start: u32| {
        streams_of(|root| {
            let soc = root.child("soc");
            let mut other = soc.child("iommu@1000").clone();
            other.0 = "iommu@2000";
            other.set(cells("phandle", &[8]));
            other.set(cells("reg", &[start, 0x2_0000]));
            soc.2.push(other);
        })
    };
    let base = 0x1_0000;
    assert!(matches!(second(base + 0x1_0000), Err(DeviceTreeError::BadRegisters { .. })));
    assert_eq!(second(base + 0x4_0000).map(|streams| streams.units().len()), Ok(2));
}
