//! Firmware's DMAR table, broken or hostile: never a panic, bounded work, and what is taken is what the bytes say.

use iommu_discovery::dmar::{Dmar, DmarError};
use iommu_tests::figures;
use iommu_tests::hostile_dmar::{Outcome, check, good, machine, mutated, repair};
use iommu_tests::random::Random;
use std::time::{Duration, Instant};

#[test]
fn good_tables_are_taken() {
    let machine = machine();
    for table in good() {
        assert_eq!(check(&table, &machine), Outcome::Accepted);
        // Every byte of it matters: the checksum sees each change.
        for at in 0..table.len() {
            let mut other = table.clone();
            other[at] ^= 0x10;
            assert_eq!(check(&other, &machine), Outcome::Refused);
            assert_eq!(check(&table[..at], &machine), Outcome::Refused);
        }
    }
}

#[test]
fn mutated_tables_are_what_they_say_or_refused() {
    const TABLES: u64 = 30_000;
    let machine = machine();
    let mut accepted = 0;
    for seed in 1..=TABLES {
        let table = mutated(&mut Random::new(seed));
        // A failure names what it takes to see it again.
        let outcome = std::panic::catch_unwind(|| check(&table, &machine));
        match outcome {
            Ok(Outcome::Accepted) => accepted += 1,
            Ok(Outcome::Refused) => {}
            Err(panic) => {
                figures::print(&format!("hostile DMAR: seed {seed}, table {table:02x?}"));
                std::panic::resume_unwind(panic);
            }
        }
    }
    figures::print(&format!("hostile DMAR: {TABLES} mutated tables, {accepted} of them taken"));
    assert!(accepted > TABLES / 10 && accepted < TABLES * 9 / 10, "{accepted} were taken: the mutations are no test");
}

#[test]
fn random_bytes_are_no_table() {
    let machine = machine();
    let mut random = Random::new(7);
    for _ in 0..20_000 {
        let len = random.below(200) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
        check(&bytes, &machine);
        // Random structures in a whole table.
        repair(&mut bytes);
        if let Some(width) = bytes.get_mut(36) {
            *width &= 63;
        }
        repair(&mut bytes);
        check(&bytes, &machine);
    }
}

/// The largest tables take no more work than a few passes over them.
#[test]
fn work_is_bounded_by_length() {
    const LEN: usize = 2 << 20;
    let filled = |structure: &[u8]| {
        let mut table = good().pop().expect("there are some");
        while table.len() + structure.len() <= LEN {
            table.extend(structure);
        }
        repair(&mut table);
        table
    };
    // The most structures, the most scopes, the longest paths, and the most that are compared with each other.
    let long_path = [&[1, 0xfe, 0, 0, 0, 0][..], &[1, 0].repeat(124)].concat();
    let many = |scope: &[u8]| {
        let scopes = scope.repeat((65_000 - 8) / scope.len());
        let len = (scopes.len() + 8) as u16;
        [&[2, 0][..], &len.to_le_bytes(), &[0; 4], &scopes].concat()
    };
    let tables = [filled(&[9, 0, 4, 0]), filled(&many(&[1, 8, 0, 0, 0, 0, 2, 0])), filled(&many(&long_path))];
    let mut units = good().pop().expect("there are some");
    for n in 0..(LEN as u64 / 16) {
        let base = ((n + 1) << 12).to_le_bytes();
        units.extend([&[0, 0, 16, 0, 0, 0, 0, 0][..], &base].concat());
    }
    repair(&mut units);
    let start = Instant::now();
    for table in &tables {
        assert!(Dmar::parse(table).is_ok());
    }
    assert!(matches!(Dmar::parse(&units), Err(DmarError::TooManyUnits { .. })));
    let spent = start.elapsed();
    figures::print(&format!("hostile DMAR: 4 tables of {LEN} bytes read in {spent:?}"));
    // Far above what any machine takes, far below what quadratic work would.
    assert!(spent < Duration::from_secs(20), "{spent:?}");
}
