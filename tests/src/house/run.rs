//! From functions that are generic over the driver to tests.

use super::{Driver, House};

/// Runs `test` on each kind of unit that `D` drives.
pub fn each<D: Driver>(test: impl Fn(&House<D>)) {
    for case in D::cases() {
        test(&House::up(&case));
    }
}

/// Runs `test` on each of `cases`.
pub fn each_of<D: Driver>(cases: Vec<D::Case>, test: impl Fn(&House<D>)) {
    assert!(!cases.is_empty(), "{}: no kind of unit", D::NAME);
    cases.iter().for_each(|case| test(&House::up(case)));
}

/// Makes a test over each driver of each function, which is generic over the driver: `name::vtd` and `name::smmuv3`.
#[macro_export]
macro_rules! over_both {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn vtd() {
                super::$name::<iommu_tests::house::Vtd>();
            }

            #[test]
            fn smmuv3() {
                super::$name::<iommu_tests::house::Smmuv3>();
            }
        })*
    };
}
