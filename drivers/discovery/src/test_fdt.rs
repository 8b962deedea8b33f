//! Devicetrees written token by token from the Devicetree Specification's chapter 5, by nothing of the crate's own; and
//! one that QEMU has written.

use alloc::string::String;
use alloc::vec::Vec;

/// The tree of QEMU 11 for the machine that the demo boots on; see `tests/README.md`.
pub const QEMU_VIRT: &[u8] = include_bytes!("../tests/data/qemu-11.dtb");

/// A property: name and value.
#[derive(Clone)]
pub struct Prop(pub &'static str, pub Vec<u8>);

/// A node: name, properties, children.
#[derive(Clone)]
pub struct Node(pub &'static str, pub Vec<Prop>, pub Vec<Node>);

impl Node {
    /// The child with this name, to change it.
    pub fn child(&mut self, name: &str) -> &mut Self {
        self.2.iter_mut().find(|child| child.0 == name).expect("no such child")
    }

    /// Puts another value in place of a property's, or adds it.
    pub fn set(&mut self, Prop(name, value): Prop) {
        self.1.retain(|prop| prop.0 != name);
        self.1.push(Prop(name, value));
    }

    /// Takes a property away.
    pub fn unset(&mut self, name: &str) {
        self.1.retain(|prop| prop.0 != name);
    }
}

/// A property of 32-bit cells.
pub fn cells(name: &'static str, cells: &[u32]) -> Prop {
    Prop(name, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect())
}

/// A property of strings.
pub fn strings(name: &'static str, strings: &[&str]) -> Prop {
    Prop(name, strings.iter().flat_map(|string| string.bytes().chain([0])).collect())
}

/// A property that only is there.
pub fn flag(name: &'static str) -> Prop {
    Prop(name, Vec::new())
}

/// The blob of a tree with these reservations.
pub fn blob(root: &Node, reservations: &[(u64, u64)]) -> Vec<u8> {
    let (mut structure, mut names) = (Vec::new(), String::new());
    write(root, &mut structure, &mut names);
    assemble(structure, &names, reservations)
}

/// The blob of a tree with this many nodes, each but the root in the one before; for more than recursion can write.
pub fn deep_blob(nodes: usize) -> Vec<u8> {
    let open = |name: [u8; 4]| 1u32.to_be_bytes().into_iter().chain(name);
    let mut structure: Vec<u8> = open([0; 4]).collect();
    (1..nodes).for_each(|_| structure.extend(open(*b"bus\0")));
    (0..nodes).for_each(|_| structure.extend(2u32.to_be_bytes()));
    assemble(structure, "", &[])
}

/// Header, reservations, structure and names as one.
fn assemble(mut structure: Vec<u8>, names: &str, reservations: &[(u64, u64)]) -> Vec<u8> {
    structure.extend(9u32.to_be_bytes());
    let reserved: Vec<u8> = reservations
        .iter()
        .chain(&[(0, 0)])
        .flat_map(|(start, len)| start.to_be_bytes().into_iter().chain(len.to_be_bytes()))
        .collect();
    let structure_at = 40 + reserved.len();
    let names_at = structure_at + structure.len();
    let header =
        [0xd00d_feed, names_at + names.len(), structure_at, names_at, 40, 17, 16, 0, names.len(), structure.len()];
    let mut blob: Vec<u8> = header.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
    blob.extend(reserved);
    blob.extend(structure);
    blob.extend(names.bytes());
    blob
}

fn write(Node(name, props, children): &Node, structure: &mut Vec<u8>, names: &mut String) {
    let pad = |structure: &mut Vec<u8>| structure.resize(structure.len().next_multiple_of(4), 0);
    structure.extend(1u32.to_be_bytes());
    structure.extend(name.bytes().chain([0]));
    pad(structure);
    for Prop(name, value) in props {
        structure.extend([3, value.len() as u32, names.len() as u32].iter().flat_map(|word| word.to_be_bytes()));
        structure.extend(value);
        pad(structure);
        names.push_str(name);
        names.push('\0');
    }
    for child in children {
        write(child, structure, names);
    }
    structure.extend(2u32.to_be_bytes());
}

/// A board: two regions of memory, one unit behind a bus that moves addresses, one host bridge with buses 0x10 to 0x1f
/// whose odd devices the unit sees from stream 0x5000 on.
pub fn board() -> Node {
    let smmu = Node(
        "iommu@1000",
        alloc::vec![
            strings("compatible", &["vendor,own", "arm,smmu-v3"]),
            cells("reg", &[0x1_0000, 0x2_0000]),
            cells("#iommu-cells", &[1]),
            cells("phandle", &[7]),
            flag("dma-coherent"),
        ],
        Vec::new(),
    );
    let soc = Node(
        "soc",
        alloc::vec![cells("#address-cells", &[1]), cells("#size-cells", &[1]), cells("ranges", &[0, 2, 0, 0x100_0000]),],
        alloc::vec![smmu],
    );
    let pcie = Node(
        "pcie@3000000000",
        alloc::vec![
            strings("compatible", &["pci-host-ecam-generic"]),
            cells("reg", &[0x30, 0x0100_0000, 0, 0x0100_0000]),
            cells("bus-range", &[0x10, 0x1f]),
            cells("linux,pci-domain", &[3]),
            cells("#address-cells", &[3]),
            cells("#size-cells", &[2]),
            cells(
                "ranges",
                &[
                    0x0100_0000,
                    0,
                    0,
                    0,
                    0x3eff_0000,
                    0,
                    0x1_0000, // I/O ports
                    0x0200_0000,
                    0,
                    0x8000_0000,
                    0x40,
                    0x8000_0000,
                    0,
                    0x1000_0000, // 32 bits, elsewhere on the bus
                    0x4300_0000,
                    0x50,
                    0,
                    0x50,
                    0,
                    0x1,
                    0, // 64 bits, prefetchable
                ],
            ),
            cells("iommu-map", &[0x1008, 7, 0x5000, 8, 0x1018, 7, 0x6000, 0x10]),
            cells("iommu-map-mask", &[0xffff]),
        ],
        Vec::new(),
    );
    let memory = Node(
        "memory@80000000",
        alloc::vec![
            strings("device_type", &["memory"]),
            cells("reg", &[0, 0x8000_0000, 0, 0x4000_0000, 9, 9, 0, 0, 8, 0, 0x10, 0]),
        ],
        Vec::new(),
    );
    let reserved = Node(
        "reserved-memory",
        alloc::vec![cells("#address-cells", &[2]), cells("#size-cells", &[2]), flag("ranges")],
        alloc::vec![
            Node("secure@90000000", alloc::vec![cells("reg", &[0, 0x9000_0000, 0, 0x1000])], Vec::new()),
            Node("pool", alloc::vec![cells("size", &[0, 0x1000])], Vec::new()),
        ],
    );
    let serial = |name, at, extra: &[Prop]| {
        let mut props = alloc::vec![strings("compatible", &["arm,pl011"]), cells("reg", &[0, at, 0, 0x1000])];
        props.extend_from_slice(extra);
        Node(name, props, Vec::new())
    };
    Node(
        "",
        alloc::vec![cells("#address-cells", &[2]), cells("#size-cells", &[2])],
        alloc::vec![
            memory,
            reserved,
            soc,
            pcie,
            serial("serial@a000", 0xa000, &[]),
            serial("serial@b000", 0xb000, &[strings("status", &["disabled"])]),
            serial("serial@c000", 0xc000, &[strings("status", &["okay"])]),
            Node("aliases", alloc::vec![strings("console", &["/serial@c000"])], Vec::new()),
            Node(
                "chosen",
                alloc::vec![
                    strings("bootargs", &["scenario=x option=y"]),
                    strings("stdout-path", &["console:115200n8"])
                ],
                Vec::new(),
            ),
        ],
    )
}
