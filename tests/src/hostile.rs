//! What the suites of firmware's tables, broken or hostile, have in common: reading numbers, making length and checksum
//! right, mutating.

use crate::random::Random;
use crate::tables::seal;

/// The 16-bit value at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// The 32-bit value at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The 64-bit value at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What became of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was taken, and holds together.
    Accepted,
    /// It was refused, and breaks a rule.
    Refused,
}

/// What the mutations need to know of a kind of table.
pub struct Kind {
    /// Where each structure begins, and its length; nothing where the table is none.
    pub spans: fn(&[u8]) -> Vec<(usize, usize)>,
    /// Where a structure has its length, of 16 bits.
    pub length_at: usize,
    /// Makes all right that every table must have.
    pub repair: fn(&mut [u8]),
}

/// The table whose bytes these are, if it is one: as long as it says, and of the right signature and sum.
pub fn whole<'a>(bytes: &'a [u8], signature: &[u8; 4], fixed: usize) -> Option<&'a [u8]> {
    if bytes.len() < fixed || bytes[..4] != *signature {
        return None;
    }
    let length = u32_at(bytes, 4) as usize;
    if length < fixed || length > bytes.len() {
        return None;
    }
    let table = &bytes[..length];
    (table.iter().map(|byte| u32::from(*byte)).sum::<u32>() % 256 == 0).then_some(table)
}

/// Makes signature, length and checksum right.
pub fn reseal(table: &mut [u8], signature: &[u8; 4]) {
    let len = table.len() as u32;
    table[4..8].copy_from_slice(&len.to_le_bytes());
    table[..4].copy_from_slice(signature);
    seal(table);
}

/// A table that came of one of `good` by a few changes: bytes, fields, whole structures, its end. Most are repaired, so that
/// they are not refused at once.
pub fn mutated(random: &mut Random, good: &[Vec<u8>], kind: &Kind) -> Vec<u8> {
    let mut bytes = random.choose(good).clone();
    for _ in 0..=random.below(4) {
        let spans = (kind.spans)(&bytes);
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(9) {
            0 | 1 => bytes[at] = random.number() as u8,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = *random.choose(&[0, 1, 2, 4, 5, 6, 7, 8, 0x1f, 0x20, 0x7f, 0x80, 0xff]),
            4 if !spans.is_empty() => {
                // A structure twice, or moved to the end.
                let (from, len) = *random.choose(&spans);
                let copy = bytes[from..from + len].to_vec();
                if random.below(2) == 0 {
                    bytes.drain(from..from + len);
                }
                bytes.extend(copy);
            }
            5 if !spans.is_empty() => {
                let (from, len) = *random.choose(&spans);
                bytes.drain(from..from + len);
            }
            6 if !spans.is_empty() => {
                // The length of a structure.
                let (from, len) = *random.choose(&spans);
                let other = len as u64 + random.below(9);
                let at = from + kind.length_at;
                bytes[at..at + 2].copy_from_slice(&(other.saturating_sub(4) as u16).to_le_bytes());
            }
            7 if !spans.is_empty() => {
                // A structure of another table.
                let other = random.choose(good);
                let theirs = (kind.spans)(other);
                if !theirs.is_empty() {
                    let (from, len) = *random.choose(&theirs);
                    bytes.extend(&other[from..from + len]);
                }
            }
            8 => bytes.truncate(at.max(1)),
            _ => bytes.push(random.number() as u8),
        }
    }
    if random.below(16) != 0 {
        (kind.repair)(&mut bytes);
    }
    bytes
}
