//! DMAR tables, byte by byte, from the layouts of VT-d section 8.

/// Makes the checksum right.
pub fn seal(table: &mut [u8]) {
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

/// A DMAR table for a host of `bits` address bits.
pub fn dmar(bits: u8, structures: &[Vec<u8>]) -> Vec<u8> {
    let mut table = b"DMAR".to_vec();
    // Length, below; revision, checksum, names.
    table.resize(36, 0);
    table.extend([bits - 1, 0]);
    table.resize(48, 0);
    structures.iter().for_each(|structure| table.extend(structure));
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    seal(&mut table);
    table
}

fn structure(kind: u16, body: &[u8], scopes: &[Vec<u8>]) -> Vec<u8> {
    let scopes = scopes.concat();
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((4 + body.len() as u16 + scopes.len() as u16).to_le_bytes());
    bytes.extend(body);
    bytes.extend(scopes);
    bytes
}

/// A unit with registers at `base`, of segment 0.
pub fn drhd(include_all: bool, base: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![u8::from(include_all), 0, 0, 0];
    body.extend(base.to_le_bytes());
    structure(0, &body, scopes)
}

/// Memory from `first` to `last`, both included, that firmware keeps for devices of segment 0.
pub fn rmrr(first: u64, last: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(first.to_le_bytes());
    body.extend(last.to_le_bytes());
    structure(1, &body, scopes)
}

/// A device scope on root bus 0: kind 1 is an endpoint, 2 a bridge and all below it.
pub fn scope(kind: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = vec![kind, 6 + 2 * path.len() as u8, 0, 0, 0, 0];
    path.iter().for_each(|(device, function)| bytes.extend([*device, *function]));
    bytes
}
