//! Tables written byte by byte from the layouts of ACPI 5.2.6, VT-d section 8 and Arm DEN0049, by nothing of the crate's own; and
//! two read out of a guest's memory.

use alloc::vec::Vec;

/// Puts `bytes` at `at`.
pub fn put(table: &mut [u8], at: usize, bytes: &[u8]) {
    table[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Makes the checksum (offset 9) right.
pub fn seal(table: &mut [u8]) {
    table[9] = 0;
    let sum: u32 = table.iter().map(|byte| u32::from(*byte)).sum();
    table[9] = (0x100 - (sum & 0xff)) as u8;
}

/// A whole table: header, `fixed` from offset 36 on, then `parts`.
pub fn table(signature: &[u8; 4], fixed: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend_from_slice(signature);
    table.extend_from_slice(&[0; 4]); // length, below
    table.extend_from_slice(&[1, 0]); // revision, checksum
    table.extend_from_slice(b"BOCHS BXPC    "); // OEM id and table id
    table.extend_from_slice(&[1, 0, 0, 0]);
    table.extend_from_slice(b"BXPC");
    table.extend_from_slice(&[1, 0, 0, 0]);
    assert_eq!(table.len(), 36);
    table.extend_from_slice(fixed);
    for part in parts {
        table.extend_from_slice(part);
    }
    let length = table.len() as u32;
    put(&mut table, 4, &length.to_le_bytes());
    seal(&mut table);
    table
}

/// A DMAR table with a 39-bit host and interrupt remapping.
pub fn dmar(structures: &[Vec<u8>]) -> Vec<u8> {
    let mut fixed = [0u8; 12];
    fixed[0] = 38;
    fixed[1] = 1;
    table(b"DMAR", &fixed, structures)
}

/// A remapping structure: type, length, `body`.
pub fn structure(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u16 + 4).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A DRHD structure. `flags` bit 0 is INCLUDE_PCI_ALL; `size` the byte at offset 5.
pub fn drhd(flags: u8, size: u8, segment: u16, base: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&[flags, size]);
    body.extend_from_slice(&segment.to_le_bytes());
    body.extend_from_slice(&base.to_le_bytes());
    scopes.iter().for_each(|scope| body.extend_from_slice(scope));
    structure(0, &body)
}

/// An RMRR structure.
pub fn rmrr(segment: u16, base: u64, limit: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&segment.to_le_bytes());
    body.extend_from_slice(&base.to_le_bytes());
    body.extend_from_slice(&limit.to_le_bytes());
    scopes.iter().for_each(|scope| body.extend_from_slice(scope));
    structure(1, &body)
}

/// An ATSR or a SATC structure.
fn with_scopes(kind: u16, flags: u8, segment: u16, scopes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::from([flags, 0]);
    body.extend_from_slice(&segment.to_le_bytes());
    scopes.iter().for_each(|scope| body.extend_from_slice(scope));
    structure(kind, &body)
}

/// An ATSR structure. `flags` bit 0 is ALL_PORTS.
pub fn atsr(flags: u8, segment: u16, scopes: &[Vec<u8>]) -> Vec<u8> {
    with_scopes(2, flags, segment, scopes)
}

/// A SATC structure. `flags` bit 0 is ATC_REQUIRED.
pub fn satc(flags: u8, segment: u16, scopes: &[Vec<u8>]) -> Vec<u8> {
    with_scopes(5, flags, segment, scopes)
}

/// A SIDP structure.
pub fn sidp(segment: u16, scopes: &[Vec<u8>]) -> Vec<u8> {
    with_scopes(6, 0, segment, scopes)
}

/// An RHSA structure.
pub fn rhsa(base: u64, proximity_domain: u32) -> Vec<u8> {
    let mut body = Vec::from([0; 4]);
    body.extend_from_slice(&base.to_le_bytes());
    body.extend_from_slice(&proximity_domain.to_le_bytes());
    structure(3, &body)
}

/// An ANDD structure; `name` with its end.
pub fn andd(number: u8, name: &[u8]) -> Vec<u8> {
    let mut body = Vec::from([0, 0, 0, number]);
    body.extend_from_slice(name);
    structure(4, &body)
}

/// `scope` with these flags.
pub fn with_flags(mut scope: Vec<u8>, flags: u8) -> Vec<u8> {
    scope[2] = flags;
    scope
}

/// A device scope.
pub fn scope(kind: u8, enumeration_id: u8, start_bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&[kind, 6 + 2 * path.len() as u8, 0, 0, enumeration_id, start_bus]);
    path.iter().for_each(|(device, function)| bytes.extend_from_slice(&[*device, *function]));
    bytes
}

/// The DMAR of QEMU 10.0.13 and 11.1.3 alike, read from guest memory (`-M q35 -nic none -vga none -device
/// intel-iommu,aw-bits=48,device-iotlb=on -device edu,addr=2 -device pcie-pci-bridge,id=b,addr=5 -device
/// edu,bus=b,addr=4`). The unit is *not* INCLUDE_PCI_ALL: it names every function and bridge of the root bus.
#[rustfmt::skip]
pub const QEMU_DMAR: [u8; 128] = [
    0x44, 0x4d, 0x41, 0x52, 0x80, 0x00, 0x00, 0x00, 0x01, 0xec, 0x42, 0x4f, 0x43, 0x48, 0x53, 0x20,
    0x42, 0x58, 0x50, 0x43, 0x20, 0x20, 0x20, 0x20, 0x01, 0x00, 0x00, 0x00, 0x42, 0x58, 0x50, 0x43,
    0x01, 0x00, 0x00, 0x00, 0x2f, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x48, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xd9, 0xfe, 0x00, 0x00, 0x00, 0x00,
    0x03, 0x08, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x02, 0x08, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00,
    0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x1f, 0x00, 0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x1f, 0x02,
    0x01, 0x08, 0x00, 0x00, 0x00, 0x00, 0x1f, 0x03, 0x02, 0x00, 0x08, 0x00, 0x01, 0x00, 0x00, 0x00,
];

/// The MCFG of the same machine.
#[rustfmt::skip]
pub const QEMU_MCFG: [u8; 60] = [
    0x4d, 0x43, 0x46, 0x47, 0x3c, 0x00, 0x00, 0x00, 0x01, 0x8c, 0x42, 0x4f, 0x43, 0x48, 0x53, 0x20,
    0x42, 0x58, 0x50, 0x43, 0x20, 0x20, 0x20, 0x20, 0x01, 0x00, 0x00, 0x00, 0x42, 0x58, 0x50, 0x43,
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xb0,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x00, 0x00,
];

/// One unit for everything, and its I/O APIC on bus 0xff.
pub fn include_all() -> Vec<u8> {
    dmar(&[drhd(1, 0, 0, 0xfed9_0000, &[scope(3, 0, 0xff, &[(0, 0)])])])
}

/// Several units, two segments, paths of several steps, reserved regions, every known type and an unknown one.
pub fn large() -> Vec<u8> {
    dmar(&[
        drhd(0, 0, 0, 0xfed9_0000, &[scope(1, 0, 0, &[(2, 0)])]),
        drhd(0, 1, 0, 0xfed9_2000, &[scope(2, 0, 0, &[(1, 0)]), scope(1, 0, 0, &[(0x1c, 4), (0, 0), (3, 1)])]),
        drhd(1, 0, 0, 0xfed9_4000, &[scope(3, 8, 0, &[(0x1f, 7)]), scope(4, 0, 0, &[(0x1f, 6)])]),
        drhd(0, 0, 1, 0x1_fed9_0000, &[scope(2, 0, 0, &[(1, 0)])]),
        drhd(1, 15, 1, 0x2_0000_0000, &[scope(5, 3, 0, &[(0x15, 0)])]),
        rmrr(0, 0x7b80_0000, 0x7fff_ffff, &[scope(1, 0, 0, &[(2, 0)])]),
        rmrr(1, 0, 0xfff, &[scope(1, 0, 0, &[(0x14, 0)]), scope(1, 0, 0, &[(1, 0), (0, 0)])]),
        structure(2, &[0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 1, 0]),
        structure(3, &[0; 16]),
        structure(4, b"\0\0\0\x03\\_SB.I2C0\0"),
        structure(5, &[1, 0, 0, 0]),
        structure(6, &[0; 4]),
        structure(0x77, &[0xaa; 9]),
    ])
}

/// An IORT node: type, revision, what follows the header, mappings.
pub fn node(kind: u8, revision: u8, body: &[u8], mappings: &[Vec<u8>]) -> Vec<u8> {
    let mappings_at = 16 + body.len();
    let length = (mappings_at + 20 * mappings.len()) as u16;
    let mut bytes = Vec::from([kind]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[revision, 0, 0, 0, 0]);
    bytes.extend_from_slice(&(mappings.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(mappings_at as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    mappings.iter().for_each(|mapping| bytes.extend_from_slice(mapping));
    bytes
}

/// An ID mapping of `more` ids and one to the node at `to`; `flags` bit 0 is for a single one.
pub fn mapping(first: u32, more: u32, output: u32, to: u32, flags: u32) -> Vec<u8> {
    [first, more, output, to, flags].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An IORT.
pub fn iort(nodes: &[Vec<u8>]) -> Vec<u8> {
    let fixed: Vec<u8> = [nodes.len() as u32, 48, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    table(b"IORT", &fixed, nodes)
}

/// An ITS group; 20 bytes and 4 for each.
pub fn its_group(ids: &[u32]) -> Vec<u8> {
    let count = [ids.len() as u32];
    node(0, 1, &count.iter().chain(ids).flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), &[])
}

/// An SMMUv3 of revision 5 whose four interrupts are `lines` (event, page request, error, sync).
pub fn smmu_v3(base: u64, flags: u32, model: u32, lines: [u32; 4], msi: u32, mappings: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::from(base.to_le_bytes());
    let [event, page_request, error, sync] = lines;
    for word in [flags, 0, 0, 0, model, event, page_request, error, sync, 3, msi] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    node(4, 5, &body, mappings)
}

/// A root complex of revision 4, coherent, with 48 address bits.
pub fn root_complex(segment: u32, ats: u32, pasid_bits: u16, mappings: &[Vec<u8>]) -> Vec<u8> {
    let mut body: Vec<u8> = [1, 0x300_0000, ats, segment].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    body.push(48);
    body.extend_from_slice(&pasid_bits.to_le_bytes());
    body.extend_from_slice(&[0; 5]);
    node(2, 4, &body, mappings)
}

/// A named component; `name` with its end.
pub fn named_component(flags: u32, name: &[u8], mappings: &[Vec<u8>]) -> Vec<u8> {
    let mut body: Vec<u8> = [flags, 1, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    body.push(40);
    body.extend_from_slice(name);
    node(1, 4, &body, mappings)
}

/// A reserved memory range: bases and lengths behind the mappings.
pub fn rmr(flags: u32, memory: &[(u64, u64)], mappings: &[Vec<u8>]) -> Vec<u8> {
    let at = 28 + 20 * mappings.len() as u32;
    let body: Vec<u8> = [flags, memory.len() as u32, at].iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut node = node(6, 3, &body, mappings);
    for (base, length) in memory {
        node.extend_from_slice(&base.to_le_bytes());
        node.extend_from_slice(&length.to_le_bytes());
        node.extend_from_slice(&[0; 4]);
    }
    let length = node.len() as u16;
    put(&mut node, 1, &length.to_le_bytes());
    node
}

/// A MADT.
pub fn madt(structures: &[Vec<u8>]) -> Vec<u8> {
    table(b"APIC", &[0; 8], structures)
}

/// The structure of an interrupt translation service.
pub fn its(id: u32, base: u64) -> Vec<u8> {
    let mut bytes = Vec::from([15, 20, 0, 0]);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&base.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Where the nodes of [`arm_server`] begin.
pub mod at {
    pub const ITS: u32 = 48;
    pub const FIRST: u32 = ITS + 28;
    pub const SECOND: u32 = FIRST + 68 + 40;
    pub const OLD: u32 = SECOND + 68;
    pub const COMPLEX: u32 = OLD + 16;
}

/// Two units, one with messages and two segments behind it, an SMMUv2, functions behind none, a component, reserved memory,
/// nodes of other types.
pub fn arm_server() -> Vec<u8> {
    use at::{FIRST, ITS, OLD, SECOND};
    let nodes = [
        its_group(&[7, 9]),
        // 0x1000_0000 devices of the first, and its own messages.
        smmu_v3(
            0x4000_0000,
            0b1_1101,
            0,
            [0; 4],
            1,
            &[mapping(0, 0xf_ffff, 0x10_0000, ITS, 0), mapping(0, 0, 0x7777, ITS, 1)],
        ),
        smmu_v3(0x4002_0000, 0b10, 1, [74, 0, 77, 0], 0, &[]),
        node(3, 0, &[], &[]),
        root_complex(
            0,
            0b111,
            20,
            &[
                mapping(0, 0x3fff, 0, FIRST, 0),
                mapping(0x8000, 0xff, 0x1_0000, SECOND, 0),
                mapping(0x9000, 0xff, 3, OLD, 0),
            ],
        ),
        root_complex(5, 0, 0, &[mapping(0, 0xffff, 0x1_0000, FIRST, 0)]),
        root_complex(6, 1, 0, &[mapping(0, 0, 0x5_0000, FIRST, 1)]),
        root_complex(7, 1, 0, &[mapping(0x100, 0xff, 0x20_0000, ITS, 0)]),
        named_component(
            0b10_1011,
            b"\\_SB.SATA\0",
            &[mapping(0, 9, 0x6_0000, FIRST, 1), mapping(0, 3, 0x40, SECOND, 0)],
        ),
        rmr(0, &[(0x9000_0000, 0x2_0000), (0xa000_0000, 0x1_0000)], &[mapping(0, 0xf, 0x10, FIRST, 0)]),
        rmr(
            0b11_0001_0111,
            &[(0x9001_0000, 0x2_0000)],
            &[mapping(0, 0, 0x1f, FIRST, 1), mapping(0, 0, 0x41, SECOND, 1)],
        ),
        node(5, 1, &[0xaa; 7], &[]),
        node(99, 1, &[0xaa; 3], &[]),
    ];
    iort(&nodes)
}
