use super::*;
use crate::TableError;
use crate::test_tables::{its, madt, put, seal};
use alloc::vec;
use std::string::ToString;

#[test]
fn services_are_found_among_other_structures() {
    let table = madt(&[vec![0x0b, 4, 1, 2], its(3, 0x808_0000), vec![0, 2], its(0, 0x1_0000)]);
    let madt = Madt::parse(&table).unwrap();
    let all: Vec<_> = madt.services().iter().map(|its| (its.id, its.base.get())).collect();
    assert_eq!(all, [(3, 0x808_0000), (0, 0x1_0000)]);
    assert_eq!(madt.its(0).map(Its::doorbell), Some(PhysExtent::new(PhysAddr::new(0x2_0000), 0x1_0000)));
    assert_eq!(madt.its(1), None);
}

#[test]
fn structures_that_make_no_sense_are_refused() {
    let parse = |structures: &[Vec<u8>]| Madt::parse(&madt(structures)).map(|_| ());
    assert_eq!(parse(&[vec![9]]), Err(MadtError::TrailingBytes { offset: 44, count: 1 }));
    for length in [0, 1] {
        let short = MadtError::StructureTooShort { offset: 44, kind: 9, length: length.into(), least: 2 };
        assert_eq!(parse(&[vec![9, length, 0, 0]]), Err(short));
    }
    let long = MadtError::StructureOverlong { offset: 44, kind: 9, length: 5, room: 4 };
    assert_eq!(parse(&[vec![9, 5, 0, 0]]), Err(long));
    let mut cut = its(1, 0x1_0000);
    cut.truncate(19);
    cut[1] = 19;
    let short = MadtError::StructureTooShort { offset: 44, kind: 15, length: 19, least: 20 };
    assert_eq!(parse(&[cut]), Err(short));
    for base in [0, 0x1000, u64::MAX - 0xffff] {
        assert_eq!(parse(&[its(1, base)]), Err(MadtError::BadBase { offset: 44, base }));
    }
    assert_eq!(parse(&[its(1, u64::MAX - 0x1_ffff)]), Ok(()));
    let taken = MadtError::NumberTaken { offset: 64, id: 1 };
    assert_eq!(parse(&[its(1, 0x1_0000), its(1, 0x10_0000)]), Err(taken));
    let many: Vec<_> = (0..=1024).map(|id| its(id, 0x1_0000)).collect();
    assert_eq!(parse(&many[..1024]), Ok(()));
    assert_eq!(parse(&many), Err(MadtError::TooManyServices { offset: 44 + 1024 * 20 }));
    assert_eq!(taken.to_string(), "MADT: ITS at 0x40 repeats number 0x1");
}

#[test]
fn the_table_as_a_whole() {
    let good = madt(&[its(1, 0x1_0000)]);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        assert!(matches!(Madt::parse(&bytes), Err(MadtError::Table(_))), "byte {at}");
        for value in [0, 0xff] {
            bytes[at] = value;
            seal(&mut bytes);
            let _ = Madt::parse(&bytes);
        }
    }
    let mut short = madt(&[]);
    put(&mut short, 4, &43u32.to_le_bytes());
    assert_eq!(Madt::parse(&short), Err(MadtError::Table(TableError::TooShort { length: 43, least: 44 })));
}
