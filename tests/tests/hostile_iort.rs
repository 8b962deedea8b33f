//! Firmware's IORT, broken or hostile: never a panic, bounded work, and what is taken is what the bytes say.

use iommu_discovery::iort::{Iort, IortError};
use iommu_discovery::streams::Streams;
use iommu_tests::figures;
use iommu_tests::hostile_iort::{Outcome, check, good, mutated, repair};
use iommu_tests::random::Random;
use std::time::{Duration, Instant};

#[test]
fn good_tables_are_taken() {
    for table in good() {
        assert_eq!(check(&table), Outcome::Accepted);
        // Every byte of it matters: the checksum sees each change.
        for at in 0..table.len() {
            let mut other = table.clone();
            other[at] ^= 0x10;
            assert_eq!(check(&other), Outcome::Refused);
            assert_eq!(check(&table[..at]), Outcome::Refused);
        }
    }
}

#[test]
fn mutated_tables_are_what_they_say_or_refused() {
    const TABLES: u64 = 30_000;
    let mut accepted = 0;
    for seed in 1..=TABLES {
        let table = mutated(&mut Random::new(seed));
        // A failure names what it takes to see it again.
        match std::panic::catch_unwind(|| check(&table)) {
            Ok(Outcome::Accepted) => accepted += 1,
            Ok(Outcome::Refused) => {}
            Err(panic) => {
                figures::print(&format!("hostile IORT: seed {seed}, table {table:02x?}"));
                std::panic::resume_unwind(panic);
            }
        }
    }
    figures::print(&format!("hostile IORT: {TABLES} mutated tables, {accepted} of them taken"));
    assert!(accepted > TABLES / 10 && accepted < TABLES * 9 / 10, "{accepted} were taken: the mutations are no test");
}

#[test]
fn random_bytes_are_no_table() {
    let mut random = Random::new(7);
    for _ in 0..20_000 {
        let len = random.below(200) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
        check(&bytes);
        // Random nodes in a whole table.
        if bytes.len() >= 48 {
            bytes[40..48].copy_from_slice(&[48, 0, 0, 0, 0, 0, 0, 0]);
        }
        repair(&mut bytes);
        check(&bytes);
    }
}

/// The largest tables take no more work than a few passes over them, and sorting.
#[test]
fn work_is_bounded_by_length() {
    const LEN: usize = 2 << 20;
    let node = |kind: u8, body: &[u8]| {
        let len = (16 + body.len()) as u16;
        [&[kind][..], &len.to_le_bytes(), &[0; 13], body].concat()
    };
    let table = |first: &[u8], nodes: &mut dyn FnMut(u32) -> Vec<u8>| {
        let mut table = good().pop().expect("there are some");
        table.extend(first);
        for n in 0.. {
            let node = nodes(n);
            if table.len() + node.len() > LEN {
                break;
            }
            table.extend(node);
        }
        repair(&mut table);
        table
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let unit = |n: u32| node(4, &[&words(&[0, n, 0, 0, 0, 0, 0, 0, 0, 0, 0])[..]].concat());
    // With mappings behind the fixed part, to the unit at 48.
    let full = |kind: u8, body: &[u8], mappings: &[u32]| {
        let mut node = node(kind, &[body, &words(mappings)].concat());
        node[8..16].copy_from_slice(&words(&[mappings.len() as u32 / 5, 16 + body.len() as u32]));
        node
    };
    let range = |n: u32, m: u32| [m * 8, 7, (n << 16) + m * 8, 48, 0];
    let many = |n| (0..3000).flat_map(|m| range(n, m)).collect::<Vec<_>>();
    let reserved = words(&[0, 3270, 28, 0]);
    let tables = [
        // The most nodes; the most root complexes in one segment; the most mappings; the most streams of most memory.
        table(&[], &mut |_| node(99, &[])),
        table(&[], &mut |_| node(2, &[0; 16])),
        table(&unit(1), &mut |n| full(2, &words(&[0, 0, 0, n]), &many(n))),
        table(&unit(1), &mut |n| {
            let mut node = full(6, &reserved[..12], &many(n));
            // All of it is zero as far as it is read: no memory.
            node[20..24].copy_from_slice(&[0; 4]);
            node
        }),
    ];
    let units = table(&[], &mut |n| unit(n + 1));
    let start = Instant::now();
    for table in &tables {
        let iort = Iort::parse(table).expect("a table");
        let streams = Streams::from_iort(&iort, None);
        assert!(streams.is_ok(), "{:?}", streams.err());
    }
    assert!(matches!(Iort::parse(&units), Err(IortError::TooManyUnits { .. })));
    let spent = start.elapsed();
    figures::print(&format!("hostile IORT: 5 tables of {LEN} bytes read in {spent:?}"));
    // Far above what any machine takes, far below what quadratic work would.
    assert!(spent < Duration::from_secs(20), "{spent:?}");
}
